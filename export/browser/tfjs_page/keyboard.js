// Arrow keys in a field of buttons, of which only one is in the tab order.

// `items()` gives the buttons in reading order and `columns()` how many make a row.
export function addArrowKeys(container, items, columns) {
  container.addEventListener('keydown', (event) => {
    const all = items();
    const at = all.indexOf(event.target);
    if (at < 0) {
      return;
    }
    const row = at - at % columns();
    const target = {
      ArrowLeft: at - 1,
      ArrowRight: at + 1,
      ArrowUp: at - columns(),
      ArrowDown: at + columns(),
      Home: event.ctrlKey ? 0 : row,
      End: event.ctrlKey ? all.length - 1 : Math.min(row + columns(), all.length) - 1,
    }[event.key];
    if (target === undefined) {
      return;
    }
    event.preventDefault();
    if (all[target]) {
      makeTabStop(all, target);
      all[target].focus();
    }
  });
}

export function makeTabStop(items, index) {
  items.forEach((item, i) => {
    item.tabIndex = i === index ? 0 : -1;
  });
}
