// The page: what is shown, what was changed, and who is told.

import {AUTOMATIC, BACKENDS, Decoder} from './decoder.js';
import {TokenGrid} from './grid.js';
import {CodePicker, replaceToken} from './picker.js';
import {generate} from './serving.js';

const THUMBNAILS = 4;  // decoded at once
const SMOOTH_FROM = 128;  // pixels; smaller images are enlarged with sharp edges

const element = (id) => document.getElementById(id);
const query = new URLSearchParams(location.search);

let about;
let decoder;
let grid;
let picker;
let selected = null;  // number of a cell
let shown = {tokens: [], base: []};  // `base` is what the changes are marked against
let latest = 0;  // number of the last drawing that was begun
const past = [];  // what was shown before, for undo

// Messages ---------------------------------------------------------------------------------------

function showError(error) {
  element('error-text').textContent = error?.message || String(error);
  element('error').hidden = false;
}

function hideError() {
  element('error').hidden = true;
}

function setBusy(isBusy) {
  element('main').setAttribute('aria-busy', isBusy);
}

// The image and its tokens ---------------------------------------------------------------------

async function draw() {
  const turn = ++latest;
  const {tokens, base} = shown;
  setBusy(true);
  try {
    const start = performance.now();
    const [image] = await decoder.decodeImages([tokens]);
    const milliseconds = performance.now() - start;
    if (turn === latest) {  // otherwise a later change is being drawn
      element('speed').textContent = `${decoder.backend} · ${milliseconds.toFixed(1)} ms per image`;
      showImage(image, tokens, base);
    }
  } finally {
    setBusy(turn !== latest);
  }
}

function showImage(image, tokens, base) {
  element('image').getContext('2d').putImageData(image, 0, 0);
  grid.show(tokens, base, image);
  element('undo').disabled = past.length === 0;
  element('reset').disabled = tokens.every((token, i) => token === base[i]);
  markExample(base);
  describe(selected);
  if (selected !== null) {
    picker.open(decoder, tokens, selected, grid.square(selected), grid.place(selected));
  }
}

function show(tokens, base) {
  past.push(shown);
  shown = {tokens, base};
  return draw();
}

function choose(cell) {
  selected = cell;
  grid.select(cell);
  describe(cell);
  picker.open(decoder, shown.tokens, cell, grid.square(cell), grid.place(cell));
  picker.focus();
}

function change(code) {
  if (selected !== null && shown.tokens[selected] !== code) {
    return show(replaceToken(shown.tokens, selected, code), shown.base);
  }
}

function undo() {
  if (past.length) {
    shown = past.pop();
    return draw();
  }
}

// A token's place and code, in words and in the image.
function describe(cell) {
  const note = element('cell-note');
  const spot = element('spot');
  spot.hidden = cell === null;
  if (cell === null) {
    note.textContent = 'Click a token, or move with the arrow keys and press Enter.';
    return;
  }
  const [token, before] = [shown.tokens[cell], shown.base[cell]];
  const was = token === before ? '' : `, was ${before}`;
  note.textContent = `Token at ${grid.place(cell)}: code ${token}${was}.`;
  const {left, top, size} = grid.square(cell);
  const [height, width] = about.image_size;
  spot.style.left = `${100 * left / width}%`;
  spot.style.top = `${100 * top / height}%`;
  spot.style.width = `${100 * size / width}%`;
  spot.style.height = `${100 * size / height}%`;
}

function point(cell) {
  grid.point(cell);
  describe(cell ?? selected);
}

function listenToImage() {
  const canvas = element('image');
  const cellOf = (event) => {
    const box = canvas.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width;
    return grid.cellAt(x, (event.clientY - box.top) / box.height);
  };
  canvas.addEventListener('mousemove', (event) => point(cellOf(event)));
  canvas.addEventListener('mouseleave', () => point(null));
  canvas.addEventListener('click', (event) => choose(cellOf(event)));
}

function save() {
  element('image').toBlob((blob) => {
    const link = document.createElement('a');
    link.href = URL.createObjectURL(blob);
    link.download = 'image.png';
    link.click();
    URL.revokeObjectURL(link.href);
  });
}

// Examples ---------------------------------------------------------------------------------------

function makeExamples() {
  const [height, width] = about.image_size;
  about.examples.forEach((tokens, i) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.className = 'example';
    button.setAttribute('aria-label', `Example ${i + 1}`);
    const canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [width, height];
    button.append(canvas);
    button.addEventListener('click', () => show(tokens, tokens));
    element('examples').append(button);
  });
}

function markExample(base) {
  [...element('examples').children].forEach((button, i) => {
    button.setAttribute('aria-pressed', about.examples[i] === base);
  });
}

async function paintExamples() {
  const canvases = element('examples').querySelectorAll('canvas');
  for (let start = 0; start < canvases.length; start += THUMBNAILS) {
    const grids = about.examples.slice(start, start + THUMBNAILS);
    const images = await decoder.decodeImages(grids);
    images.forEach((image, i) => {
      canvases[start + i].getContext('2d').putImageData(image, 0, 0);
    });
    await new Promise((resume) => setTimeout(resume));
  }
}

// Weights and backend ----------------------------------------------------------------------------

function fillSelect(select, values, chosen) {
  select.append(...values.map((value) => new Option(value, value, false, value === chosen)));
}

async function loadDecoder() {
  setBusy(true);
  picker.pause();
  const controls = [element('weights'), element('backend')];
  controls.forEach((control) => (control.disabled = true));
  try {
    const [weights, backend] = controls.map((control) => control.value);
    const next = await Decoder.load(about, weights, backend);
    decoder?.dispose();
    decoder = next;
  } finally {
    controls.forEach((control) => (control.disabled = false));
    setBusy(false);
  }
}

async function reload() {
  hideError();  // of the try before; this one's stays while what works is loaded again
  try {
    await loadDecoder();
  } catch (error) {
    showError(error);
    // Back to what works.
    element('weights').value = decoder.weights;
    element('backend').value = decoder.backend;
    await loadDecoder();
  }
  await draw();
}

// Generating -------------------------------------------------------------------------------------

function prepareForm() {
  const form = element('generate');
  const hasLabels = about.class_names.length > 0;
  element('no-vim').hidden = about.generates;
  element('serving').hidden = !about.generates;
  for (const label of form.querySelectorAll('[data-labelled]')) {
    label.hidden = !hasLabels;
    label.querySelector('input, select').disabled = !hasLabels;  // so that FormData leaves it out
  }
  form.elements.label.append(...about.class_names.map((name, i) => new Option(name, i)));
  form.elements.top_k.max = about.codes;
  const showForm = () => {
    form.hidden = element('generate-note').hidden = !element('address').value.trim();
  };
  element('address').addEventListener('input', showForm);
  showForm();  // browsers fill in what was typed before
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    submit(form);
  });
}

async function submit(form) {
  const note = element('generate-note');
  const button = form.querySelector('button');
  const entries = [...new FormData(form)].map(([name, value]) => [name, Number(value)]);
  button.disabled = true;
  note.textContent = 'Generating …';
  note.classList.remove('bad');
  try {
    const start = performance.now();
    const tokens = await generate(element('address').value, Object.fromEntries(entries), about);
    const seconds = (performance.now() - start) / 1000;
    await show(tokens, tokens);
    note.textContent = `Generated in ${seconds.toFixed(2)} s. Another seed gives another image.`;
    element('stage').scrollIntoView({block: 'nearest', behavior: 'smooth'});
  } catch (error) {
    note.textContent = error.message;  // here, and not above, where it would be out of sight
    note.classList.add('bad');
  } finally {
    button.disabled = false;
  }
}

// Start ------------------------------------------------------------------------------------------

async function readAbout() {
  const response = await fetch('examples.json');
  if (!response.ok) {
    throw new Error(`examples.json cannot be loaded: ${response.status} ${response.statusText}`);
  }
  return response.json();
}

async function start() {
  about = await readAbout();
  const [height, width] = about.image_size;
  const canvas = element('image');
  [canvas.width, canvas.height] = [width, height];
  document.body.classList.toggle('sharp', Math.max(height, width) < SMOOTH_FROM);
  const weights = Object.keys(about.decoders);
  fillSelect(element('weights'), weights, query.get('weights') ?? weights[0]);
  fillSelect(element('backend'), [AUTOMATIC, ...BACKENDS], query.get('backend') ?? AUTOMATIC);

  grid = new TokenGrid(element('grid'), about, choose, point);
  const parts = {
    panel: document.querySelector('.picker'),
    list: element('codes'),
    form: element('search-form'),
    search: element('search'),
    previous: element('previous'),
    next: element('next'),
    range: element('range'),
    note: element('picker-note'),
  };
  picker = new CodePicker(parts, about.codes, change, () => grid.focus(selected ?? 0));
  makeExamples();
  prepareForm();
  listenToImage();
  element('undo').addEventListener('click', undo);
  element('reset').addEventListener('click', () => show(shown.base, shown.base));
  element('save').addEventListener('click', save);
  element('weights').addEventListener('change', reload);
  element('backend').addEventListener('change', reload);

  await loadDecoder();
  shown = {tokens: about.examples[0], base: about.examples[0]};
  await draw();
  element('loading').hidden = true;
  element('main').hidden = false;
  await paintExamples();
}

element('error-close').addEventListener('click', hideError);
window.addEventListener('unhandledrejection', (event) => showError(event.reason));
start().catch((error) => {
  element('loading').hidden = true;
  showError(error);
});
