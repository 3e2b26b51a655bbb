'use strict';
// The table, its filters and its order, and the address that holds them.

const read = name => JSON.parse(document.getElementById('data-' + name).textContent);
const POINTS = read('points');
const FILTERS = ['model', 'mode', 'method', 'status'];
const form = document.getElementById('filters');
const body = document.querySelector('#points tbody');
const ROWS = [...body.rows];  // by the number of the point
const state = {};  // what the address says: the filters, sort, point
const FIRST = 100;  // rows of a table that are laid out at once; a button shows the others, paper all
let every = false;  // that button was used
let order = POINTS.map((_, n) => n);  // of all points, as they are sorted

function shown() {  // the points that the filters leave, in the order of the table
  return order.filter(n => FILTERS.every(f => !state[f] || String(POINTS[n][f]) === state[f]));
}

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function fill(table, head, rows) {  // a table of texts; of each row the first is its heading
  const top = element('tr', '');
  head.forEach(text => top.append(element('th', text, { scope: 'col' })));
  const lines = rows.map(cells => {
    const line = element('tr', '');
    cells.forEach((cell, i) => line.append(
      i ? element('td', cell ?? '') : element('th', cell ?? '', { scope: 'row' })));
    return line;
  });
  const thead = element('thead', ''), tbody = element('tbody', '');
  thead.append(top);
  tbody.append(...lines);
  table.replaceChildren(thead, tbody);
  return lines;
}

const best = p => p.mode === 'predicted' ? p.estimate_s : p.median_s;
const middle = numbers => {
  const s = [...numbers].sort((a, b) => a - b), half = s.length >> 1;
  return s.length % 2 ? s[half] : (s[half - 1] + s[half]) / 2;
};

function matrix(numbers) {
  const methods = [...new Set(numbers.filter(n => best(POINTS[n]) != null).map(n => POINTS[n].method))].sort();
  const models = new Set(POINTS.map(p => p.model)).size, rows = new Map();  // name -> method -> points
  for (const n of numbers) {
    const p = POINTS[n];
    if (best(p) == null) continue;
    const name = (models > 1 ? p.model + ' ' : '') + p.row + (p.mode === 'predicted' ? ', predicted' : '');
    if (!rows.has(name)) rows.set(name, new Map());
    const cells = rows.get(name);
    if (!cells.has(p.method)) cells.set(p.method, []);
    cells.get(p.method).push(p);
  }
  const table = document.getElementById('matrix'), lowest = [], most = [...rows].slice(0, FIRST);
  document.getElementById('matrix-more').textContent = most.length < rows.size
    ? `The first ${most.length} of ${rows.size} rows; filter or sort to see others.` : '';
  const texts = most.map(([name, cells]) => {
    const times = methods.map(m => cells.has(m) ? middle(cells.get(m).map(best)) : Infinity);
    lowest.push(cells.size > 1 ? times.indexOf(Math.min(...times)) : -1);
    return [name, ...methods.map((m, i) => {
      if (!cells.has(m)) return '';
      const of = cells.get(m), share = of.map(p => p.fraction).filter(f => f != null);
      return (i === lowest[lowest.length - 1] ? '* ' : '') + times[i].toFixed(3) + ' s'
        + (share.length ? ` (${Math.round(100 * middle(share))}%)` : '')
        + (of.length > 1 ? `, of ${of.length}` : '');
    })];
  });
  fill(table, ['row', ...methods], texts).forEach((line, i) => {
    if (lowest[i] >= 0) line.cells[lowest[i] + 1].className = 'best';
  });
}

function sorted() {
  const [, down, column] = /^(-?)(.*)$/.exec(state.sort || '');
  const heads = [...document.querySelectorAll('#points thead th')];
  const at = heads.findIndex(head => head.dataset.column === column);
  heads.forEach(head => head.setAttribute('aria-sort', 'none'));
  order = POINTS.map((_, n) => n);
  if (at < 0) return;
  heads[at].setAttribute('aria-sort', down ? 'descending' : 'ascending');
  const key = heads[at].dataset.key;
  const texts = key ? [] : ROWS.map(row => row.cells[at].textContent);
  const compared = (a, b) => key ? POINTS[a][key] - POINTS[b][key] : texts[a].localeCompare(texts[b]);
  const missing = n => key ? POINTS[n][key] == null : texts[n] === '';
  order.sort((a, b) => (missing(a) - missing(b)) || (down ? -1 : 1) * compared(a, b) || a - b);
}

function show() {  // all that the state says
  sorted();
  const numbers = shown(), left = new Set(numbers);
  ROWS.forEach((row, n) => { row.hidden = !left.has(n); });
  if (order.some((n, i) => body.rows[i] !== ROWS[n])) body.append(...order.map(n => ROWS[n]));
  few(numbers);
  FILTERS.forEach(f => { form.elements[f].value = state[f] || ''; });
  document.getElementById('shown').textContent = `${numbers.length} of ${POINTS.length} points`;
  for (const article of document.querySelectorAll('#failures article'))
    article.hidden = !left.has(Number(article.dataset.n));
  matrix(numbers);
  showOne();
  redraw();
}

function few(numbers) {  // of the points that are shown, the first alone are laid out
  numbers.forEach((n, i) => ROWS[n].classList.toggle('more', i >= FIRST && !every));
  const button = document.getElementById('every');
  button.hidden = every || numbers.length <= FIRST;
  button.textContent = `Show all ${numbers.length} rows`;
}

function said() {  // the state into the address
  const parts = new URLSearchParams(Object.entries(state).filter(([, value]) => value));
  history.replaceState(null, '', '#' + parts);
}

function heard() {  // the state out of the address
  for (const key of [...FILTERS, 'sort', 'point']) delete state[key];
  for (const [key, value] of new URLSearchParams(location.hash.slice(1)))
    if ([...FILTERS, 'sort', 'point'].includes(key)) state[key] = value;
}

function change(what) {
  Object.assign(state, what);
  said();
  show();
}

form.addEventListener('change', () =>
  change(Object.fromEntries(FILTERS.map(f => [f, form.elements[f].value]))));
form.addEventListener('reset', event => {
  event.preventDefault();
  change(Object.fromEntries(FILTERS.map(f => [f, ''])));
});
document.querySelector('#points thead').addEventListener('click', event => {
  const head = event.target.closest('th');
  if (!head) return;
  const up = head.getAttribute('aria-sort') === 'ascending';
  change({ sort: (up ? '-' : '') + head.dataset.column });
});
body.addEventListener('click', event => {
  const row = event.target.closest('button') && event.target.closest('tr');
  if (!row) return;
  change({ point: POINTS[row.dataset.n].id });
  document.getElementById('one-heading').focus();
});
document.getElementById('every').addEventListener('click', () => {
  every = true;
  few(shown());
});
document.getElementById('close').addEventListener('click', () => {
  const n = POINTS.findIndex(p => p.id === state.point);
  change({ point: '' });
  if (n >= 0) ROWS[n].querySelector('button').focus();
});
addEventListener('hashchange', () => {
  if (location.hash === '#points-heading') return;
  heard();
  show();
});
