// Choosing a code for a token. Each is shown as the patch that the decoder would paint in its place
// with all other tokens as they are.

import {addArrowKeys, makeTabStop} from './keyboard.js';

const PAGE = 40;  // codes shown at once
const BATCH = 8;  // images decoded at once, so that the page stays awake in between

// A copy of tokens with another code in one cell.
export function replaceToken(tokens, cell, code) {
  const copy = Array.from(tokens);
  copy[cell] = code;
  return copy;
}

export class CodePicker {
  // `parts` are elements by name; `codes` is their number; `onChoose(code)`, `onLeave()`.
  constructor(parts, codes, onChoose, onLeave) {
    Object.assign(this, {parts, codes, onChoose, first: 0, turn: 0, buttons: []});
    parts.previous.addEventListener('click', () => this.turnTo(this.first - PAGE));
    parts.next.addEventListener('click', () => this.turnTo(this.first + PAGE));
    parts.search.addEventListener('input', () => this.turnTo(parts.search.value ? 0 : this.home()));
    parts.form.addEventListener('submit', (event) => {
      event.preventDefault();
      this.chooseNumber();
    });
    parts.panel.addEventListener('keydown', (event) => {
      if (event.key === 'Escape') {
        onLeave();
      }
    });
    addArrowKeys(parts.list, () => this.buttons, () => this.columns());
    this.draw();
  }

  columns() {
    return getComputedStyle(this.parts.list).gridTemplateColumns.split(' ').length;
  }

  // Codes whose number starts with what was typed.
  matches() {
    const typed = this.parts.search.value.trim();
    const all = Array.from({length: this.codes}, (_, code) => code);
    return typed ? all.filter((code) => String(code).startsWith(typed)) : all;
  }

  chooseNumber() {
    const typed = this.parts.search.value.trim();
    const code = Number(typed);
    if (!this.decoder) {
      this.say('Choose a token first.');
    } else if (!/^\d+$/.test(typed) || code >= this.codes) {
      this.say(`${typed || 'Nothing'} is no code; codes go from 0 to ${this.codes - 1}.`);
    } else {
      this.onChoose(code);
    }
  }

  // Shows the page with the token's code. `square` is {left, top, size} in pixels.
  open(decoder, tokens, cell, square, place) {
    const others = replaceToken(tokens, cell, -1).join();  // all that the patches depend on
    const isOther = this.cell !== cell;
    const isStale = isOther || this.decoder !== decoder || this.others !== others;
    Object.assign(this, {decoder, tokens, cell, square, others});
    this.say(`For ${place}, now code ${tokens[cell]}: each patch shows the result of that code.`);
    if (isOther) {
      this.parts.search.value = '';
      this.first = this.home();
    }
    if (isStale) {
      this.draw();
    } else {
      this.mark();
    }
  }

  // The first code of the page that has the token's.
  home() {
    const code = this.tokens?.[this.cell] ?? 0;
    return code - code % PAGE;
  }

  turnTo(first) {
    this.first = first;
    this.draw();
  }

  say(text) {
    this.parts.note.textContent = text;
  }

  focus() {
    const current = this.buttons.find((button) => button.tabIndex === 0);
    (current ?? this.parts.search).focus({preventScroll: true});
  }

  draw() {
    const matches = this.matches();
    const shown = matches.slice(this.first, this.first + PAGE);
    const hadFocus = this.parts.list.contains(document.activeElement);
    this.buttons = shown.map((code) => this.makeButton(code));
    this.parts.list.replaceChildren(...this.buttons);
    this.parts.previous.disabled = this.first === 0;
    this.parts.next.disabled = this.first + PAGE >= matches.length;
    this.parts.range.textContent =
        shown.length ? `${shown[0]}–${shown.at(-1)} of ${this.codes}` : 'none';
    if (!shown.length) {
      const typed = this.parts.search.value;
      this.say(`No code starts with ${typed}; they go from 0 to ${this.codes - 1}.`);
    }
    this.mark();
    if (hadFocus) {
      this.focus();
    }
    this.paint(shown);
  }

  // Shows which code the token has.
  mark() {
    const current = this.buttons.findIndex(
        (button) => Number(button.dataset.code) === this.tokens?.[this.cell]);
    this.buttons.forEach((button, i) => button.setAttribute('aria-pressed', i === current));
    makeTabStop(this.buttons, Math.max(0, current));
  }

  makeButton(code) {
    const button = document.createElement('button');
    button.type = 'button';
    button.className = 'code';
    button.dataset.code = code;
    button.disabled = !this.decoder;
    button.setAttribute('aria-label', `Code ${code}`);
    button.addEventListener('click', () => this.onChoose(code));
    const swatch = document.createElement('canvas');
    swatch.width = swatch.height = this.square?.size ?? 1;
    const number = document.createElement('span');
    number.textContent = code;
    button.append(swatch, number);
    return button;
  }

  // Decodes the image with each of the codes; stops when the page shows something else.
  async paint(codes) {
    const turn = ++this.turn;
    const {decoder, tokens, cell, square} = this;
    const swatches = this.buttons.map((button) => button.firstChild);
    for (let start = 0; decoder && start < codes.length; start += BATCH) {
      await new Promise((resume) => setTimeout(resume));
      if (turn !== this.turn) {
        return;
      }
      const grids =
          codes.slice(start, start + BATCH).map((code) => replaceToken(tokens, cell, code));
      const images = await decoder.decodeImages(grids);
      images.forEach((image, i) => {
        swatches[start + i].getContext('2d').putImageData(
            image, -square.left, -square.top, square.left, square.top, square.size, square.size);
      });
    }
  }

  // The decoder is about to go.
  pause() {
    this.turn++;
  }
}
