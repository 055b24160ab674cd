// Runs a converted decoder over token grids in Node, for Python to hold against Keras.
//
//   node parity.mjs NODE_MODULES DECODER TOKENS PICTURES
//
// DECODER is the folder of model.json. TOKENS holds int32 [n,N] and PICTURES gets float32
// [n,H,W,3], both raw and little-endian. The last line of the output is JSON: {"backend", "rows",
// "milliseconds"}, the last one of a single image.

import {readFileSync, writeFileSync} from 'node:fs';
import {createRequire} from 'node:module';
import {join, resolve, sep} from 'node:path';

const REPEATS = 9;
const [nodeModules, decoder, tokensFile, imagesFile] = process.argv.slice(2);
const require = createRequire(join(resolve(nodeModules), 'parity.js'));
const tf = require('@tensorflow/tfjs');
const wasm = require('@tensorflow/tfjs-backend-wasm');

// Node's fetch reads no files, so the model is handed over in memory.
function loadArtifacts() {
  const {modelTopology, weightsManifest, format, signature} =
      JSON.parse(readFileSync(join(decoder, 'model.json'), 'utf8'));
  const shards = weightsManifest.flatMap((group) => group.paths);
  const bytes = Buffer.concat(shards.map((path) => readFileSync(join(decoder, path))));
  return {
    modelTopology,
    format,
    signature,
    weightSpecs: weightsManifest.flatMap((group) => group.weights),
    weightData: new Uint8Array(bytes).buffer,
  };
}

async function milliseconds(model, tokens) {
  const times = [];
  for (let i = 0; i < REPEATS; i++) {
    const start = performance.now();
    const images = model.execute(tokens);
    await images.data();
    times.push(performance.now() - start);
    images.dispose();
  }
  return times.sort((a, b) => a - b)[(REPEATS - 1) / 2];
}

wasm.setWasmPaths(resolve(nodeModules, '@tensorflow/tfjs-backend-wasm/dist') + sep);
await tf.setBackend('wasm');
const model = await tf.loadGraphModel({load: async () => loadArtifacts()});
const [batch, tokensPerImage] = model.inputs[0].shape;
if (batch !== -1) {
  throw new Error(`the decoder takes batches of ${batch} only`);
}
const values = new Int32Array(new Uint8Array(readFileSync(tokensFile)).buffer);
const tokens = tf.tensor2d(values, [values.length / tokensPerImage, tokensPerImage], 'int32');
const images = model.execute(tokens);
const pixels = await images.data();
writeFileSync(imagesFile, Buffer.from(pixels.buffer, pixels.byteOffset, pixels.byteLength));
console.log(JSON.stringify({
  backend: tf.getBackend(),
  rows: tokens.shape[0],
  milliseconds: await milliseconds(model, tokens.slice([0, 0], [1, tokensPerImage])),
}));
