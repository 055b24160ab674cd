// Asking TF Serving's REST interface for the tokens of a new image.

const MODEL = 'vim';
const PATIENCE = 5 * 60 * 1000;  // milliseconds; a large model on a CPU takes minutes

// What the user typed -> the address of the call.
export function predictUrl(address) {
  const text = address.trim();
  let url;
  try {
    url = new URL(/^[a-z]+:\/\//i.test(text) ? text : `http://${text}`);
  } catch {
    throw new Error(`${text} is no address; write something like http://localhost:8501`);
  }
  if (!['http:', 'https:'].includes(url.protocol)) {
    throw new Error(`${text} begins with ${url.protocol}; it must begin with http: or https:`);
  }
  return `${url.origin}${url.pathname.replace(/\/+$/, '')}/v1/models/${MODEL}:predict`;
}

async function post(url, request) {
  try {
    return await fetch(url, {
      method: 'POST',
      headers: {'Content-Type': 'application/json'},
      body: JSON.stringify(request),
      signal: AbortSignal.timeout(PATIENCE),
    });
  } catch (error) {
    if (error.name === 'TimeoutError') {
      throw new Error(`${url} has not answered in ${PATIENCE / 60000} minutes.`);
    }
    throw new Error(
        `No answer from ${url}. Is TF Serving running there, and was it started with ` +
        '--rest_api_enable_cors_support, so that it answers web pages?');
  }
}

async function readAnswer(response) {
  let answer;
  try {
    answer = await response.json();
  } catch {
    throw new Error(`The server answered ${response.status} and no JSON; is it TF Serving?`);
  }
  if (!response.ok || !answer.outputs) {
    throw new Error(`TF Serving answered ${response.status}: ${answer.error ?? 'no outputs'}`);
  }
  return answer.outputs;
}

// The tokens of one image. `settings` is {seed, temperature, top_k, top_p}, with label and
// guidance_scale where the model has labels; `about` is examples.json.
export async function generate(address, settings, about) {
  const inputs = Object.fromEntries(
      Object.entries(settings).map(([name, value]) => [name, [value]]));
  const response = await post(predictUrl(address), {signature_name: 'generate', inputs});
  const {tokens, error} = await readAnswer(response);
  if (error?.[0]) {
    throw new Error(`TF Serving refused: ${error[0]}`);
  }
  const grid = tokens?.[0] ?? [];
  const [rows, columns] = about.grid;
  const fits = (token) => Number.isInteger(token) && token >= 0 && token < about.codes;
  if (grid.length !== rows * columns || !grid.every(fits)) {
    throw new Error(
        `The server's model gives ${grid.length} tokens, which are no grid of ${rows} x ` +
        `${columns} codes from 0 to ${about.codes - 1}: it is not the model of this page.`);
  }
  return grid;
}
