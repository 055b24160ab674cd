// The decoder in the browser: token grids in, pixels out. Needs the global `tf` of tf.min.js.

const tf = globalThis.tf;
export const BACKENDS = ['webgl', 'wasm', 'cpu'];
export const AUTOMATIC = 'auto';

async function start(backend) {
  try {
    return await tf.setBackend(backend);
  } catch {
    return false;
  }
}

// Many phones have only half precision in WebGL, which shows.
function isExact(backend) {
  return backend !== 'webgl' || tf.env().getBool('WEBGL_RENDER_FLOAT32_CAPABLE');
}

async function startBackend(wanted) {
  if (wanted !== AUTOMATIC) {
    if (await start(wanted)) {
      return;
    }
    throw new Error(`This browser cannot run the backend ${wanted}; choose another one.`);
  }
  for (const backend of BACKENDS) {
    if (await start(backend) && isExact(backend)) {
      return;
    }
  }
  throw new Error('This browser runs neither WebGL nor WebAssembly; try another one.');
}

export class Decoder {
  // `about` is examples.json, `weights` one of its decoders, `backend` of BACKENDS or AUTOMATIC.
  static async load(about, weights, backend) {
    tf.wasm.setWasmPaths(new URL('./', document.baseURI).href);
    await startBackend(backend);
    const url = `${about.decoders[weights]}/model.json`;
    let model;
    try {
      model = await tf.loadGraphModel(url);
    } catch (error) {
      throw new Error(`${url} cannot be loaded: ${error.message}`);
    }
    const decoder = new Decoder(about, weights, model);
    await decoder.decode([about.examples[0]]);  // the first call compiles
    return decoder;
  }

  constructor(about, weights, model) {
    this.imageSize = about.image_size;
    this.weights = weights;
    this.model = model;
    this.backend = tf.getBackend();
  }

  // n grids of N tokens each -> Float32Array [n,H,W,3] in [-1,1].
  async decode(grids) {
    const tokens = tf.tensor2d(grids.map((grid) => Array.from(grid)), undefined, 'int32');
    const images = this.model.execute(tokens);
    try {
      return await images.data();
    } finally {
      tf.dispose([tokens, images]);
    }
  }

  // The same as images for a canvas.
  async decodeImages(grids) {
    const values = await this.decode(grids);
    return grids.map((_, i) => toImage(values, i, this.imageSize));
  }

  dispose() {
    this.model.dispose();
  }
}

// Image i of Float32Array [n,H,W,3] in [-1,1] -> ImageData.
function toImage(values, i, [height, width]) {
  const image = new ImageData(width, height);
  const start = i * height * width * 3;
  for (let pixel = 0; pixel < height * width; pixel++) {
    for (let channel = 0; channel < 3; channel++) {
      // ImageData clamps, and rounds to the nearest level.
      image.data[4 * pixel + channel] = (values[start + 3 * pixel + channel] + 1) * 127.5;
    }
    image.data[4 * pixel + 3] = 255;
  }
  return image;
}

// The mean colour [r,g,b] of a square of an image.
export function meanColour(image, left, top, size) {
  const sum = [0, 0, 0];
  for (let y = top; y < top + size; y++) {
    for (let x = left; x < left + size; x++) {
      for (let channel = 0; channel < 3; channel++) {
        sum[channel] += image.data[4 * (y * image.width + x) + channel];
      }
    }
  }
  return sum.map((value) => Math.round(value / size ** 2));
}
