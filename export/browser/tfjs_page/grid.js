// The field of tokens, and the place in the image that belongs to each.

import {meanColour} from './decoder.js';
import {addArrowKeys, makeTabStop} from './keyboard.js';

export class TokenGrid {
  // `onChoose(cell)` and `onPoint(cell or null)` are told the number of a cell in raster order.
  constructor(container, about, onChoose, onPoint) {
    [this.rows, this.columns] = about.grid;
    this.patch = about.image_size[0] / this.rows;
    container.style.setProperty('--columns', this.columns);
    container.classList.toggle('dense', this.columns > 16);
    this.cells = [];
    for (let row = 0; row < this.rows; row++) {
      const line = document.createElement('div');
      line.setAttribute('role', 'row');
      line.className = 'row';
      for (let column = 0; column < this.columns; column++) {
        line.append(this.makeCell(onChoose, onPoint));
      }
      container.append(line);
    }
    container.addEventListener('mouseleave', () => onPoint(null));
    addArrowKeys(container, () => this.cells, () => this.columns);
    makeTabStop(this.cells, 0);
  }

  makeCell(onChoose, onPoint) {
    const number = this.cells.length;
    const cell = document.createElement('button');
    cell.type = 'button';
    cell.className = 'cell';
    cell.setAttribute('role', 'gridcell');
    cell.addEventListener('click', () => onChoose(number));
    cell.addEventListener('mouseenter', () => onPoint(number));
    cell.addEventListener('focus', () => onPoint(number));
    this.cells.push(cell);
    return cell;
  }

  // "row 2, column 5", counted from 1.
  place(cell) {
    return `row ${Math.floor(cell / this.columns) + 1}, column ${cell % this.columns + 1}`;
  }

  // The square of the image that cell covers most of: {left, top, size} in pixels.
  square(cell) {
    return {
      left: cell % this.columns * this.patch,
      top: Math.floor(cell / this.columns) * this.patch,
      size: this.patch,
    };
  }

  // The cell at a point given in shares of width and height.
  cellAt(x, y) {
    const column = Math.min(this.columns - 1, Math.max(0, Math.floor(x * this.columns)));
    const row = Math.min(this.rows - 1, Math.max(0, Math.floor(y * this.rows)));
    return row * this.columns + column;
  }

  // Shows tokens [N] in the colours of their image; those unlike `base` are marked.
  show(tokens, base, image) {
    this.cells.forEach((cell, i) => {
      const {left, top, size} = this.square(i);
      const colour = meanColour(image, left, top, size);
      const changed = tokens[i] !== base[i];
      cell.style.backgroundColor = `rgb(${colour})`;
      cell.dataset.code = tokens[i];
      cell.classList.toggle('changed', changed);
      cell.classList.toggle('bright', colour[0] * 0.3 + colour[1] * 0.6 + colour[2] * 0.1 > 140);
      cell.setAttribute(
          'aria-label', `${this.place(i)}, code ${tokens[i]}${changed ? ', changed' : ''}`);
    });
  }

  select(number) {
    this.cells.forEach((cell, i) => {
      cell.classList.toggle('selected', i === number);
      cell.setAttribute('aria-selected', i === number);
    });
    makeTabStop(this.cells, number);
  }

  point(number) {
    this.cells.forEach((cell, i) => cell.classList.toggle('pointed', i === number));
  }

  focus(number) {
    this.cells[number].focus();
  }
}
