// Draws a picture when it comes into view, and again when what it shows has changed.

const COLOURS = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#8c6d31', '#999999'];
const SYMBOLS = ['circle', 'square', 'diamond', 'cross', 'x', 'triangle-up', 'star', 'hexagon'];
const MOST_ROWS = 40;  // of a picture; the table has them all
const MOST_LINES = 500;  // of a picture's table
const PICTURES = {};  // by name: a function of nothing that says what to draw

const METHODS = [...new Set(POINTS.map(p => p.method))].sort();
const colour = i => COLOURS[i % COLOURS.length];
const ofMethod = method => colour(METHODS.indexOf(method));
const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
// plotly reads some HTML in labels, and %{...} in templates, which are not used here
const plain = text => String(text).replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/>/g, '&gt;');
const seconds = value => value == null ? '' : value.toPrecision(4) + ' s';
function bytes(value) {
  for (const [unit, scale] of [['GB', 1e9], ['MB', 1e6], ['kB', 1e3]])
    if (value >= scale) return (value / scale).toFixed(2) + ' ' + unit;
  return value + ' B';
}
const cut = (text, most) => text.length > most ? text.slice(0, most - 21) + '\u2026' + text.slice(-20) : text;

function plotly() {  // it is large, and read only when the first picture is drawn
  if (!window.Plotly) {
    const script = document.createElement('script');
    script.textContent = document.getElementById('plotly').textContent;
    document.head.append(script);
  }
  return window.Plotly;
}

function layout(height, more = {}) {
  const axis = { gridcolor: css('--line'), linecolor: css('--line'), zerolinecolor: css('--line'), automargin: true };
  const made = {
    height, autosize: true, hovermode: 'closest', margin: { t: 30, r: 20, b: 50, l: 60 },
    paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)', font: { color: css('--ink'), size: 12 },
    modebar: { bgcolor: 'rgba(0,0,0,0)', color: css('--line'), activecolor: css('--accent') },
    legend: { orientation: 'h', y: 1.02, yanchor: 'bottom' }, xaxis: {}, yaxis: {}, ...more,
  };
  for (const key of Object.keys(made)) if (/^[xy]axis/.test(key)) made[key] = { ...axis, ...made[key] };
  return made;
}

function named(labels) {  // an axis with a line for each label, the first at the top
  return {
    type: 'linear', tickvals: labels.map((_, i) => i), ticktext: labels.map(text => plain(cut(text, 60))),
    range: [labels.length - 0.5, -0.5], showgrid: false, zeroline: false,
  };
}

const pending = new Set();  // figures whose picture is not as it should be
const inView = new Set();

function draw(figure) {
  pending.delete(figure);
  const none = figure.querySelector('.none'), plot = figure.querySelector('.plot');
  const made = PICTURES[figure.dataset.picture]();
  none.hidden = !made.none;
  none.textContent = made.none || '';
  plot.hidden = !!made.none;
  const details = figure.querySelector('.as-table');
  details.hidden = !!made.none;
  figure.querySelector('figcaption').textContent = made.none ? '' : made.says;
  if (made.none) {
    if (window.Plotly) Plotly.purge(plot);
    return;
  }
  details.rows = made.rows;
  details.head = made.head;
  if (details.open) table(details);
  plotly().react(plot, made.traces, made.layout, { responsive: true, displaylogo: false, modeBarButtonsToRemove: ['select2d', 'lasso2d'] });
}

function table(details) {
  const most = details.rows.slice(0, MOST_LINES), made = document.createElement('table');
  fill(made, details.head, most.map(row => row.map(cell => cell == null ? '' : String(cell))));
  const box = details.querySelector('.scroll');
  box.replaceChildren(made);
  if (most.length < details.rows.length)
    box.prepend(element('p', `the first ${most.length} of ${details.rows.length}`));
}

const watching = new IntersectionObserver(entries => {
  for (const entry of entries) {
    if (!entry.isIntersecting) inView.delete(entry.target);
    else {
      inView.add(entry.target);
      if (pending.has(entry.target)) draw(entry.target);
    }
  }
}, { rootMargin: '200px' });

function redraw() {
  for (const figure of document.querySelectorAll('.picture')) {
    pending.add(figure);
    if (inView.has(figure)) draw(figure);
  }
}

function everything() {  // also what was never in view
  for (const figure of document.querySelectorAll('.picture'))
    if (!figure.closest('[hidden]')) draw(figure);
}

function begin() {
  for (const figure of document.querySelectorAll('.picture')) watching.observe(figure);
  for (const details of document.querySelectorAll('.as-table'))
    details.addEventListener('toggle', () => {
      if (details.open) (details.rows ? table : () => draw(details.closest('.picture')))(details);
    });
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', redraw);
  addEventListener('beforeprint', () => {
    document.documentElement.dataset.print = 'yes';
    everything();
  });
  addEventListener('afterprint', () => {
    delete document.documentElement.dataset.print;
    redraw();
  });
  heard();
  show();
}
