// The point that is chosen: its facts, who sends whom how much, who holds what, how its ranks went.

const one = document.getElementById('one');
let chosen = -1, MORE, PLANS;  // read when the first point is chosen

function showOne() {
  chosen = state.point ? POINTS.findIndex(p => p.id === state.point) : -1;
  one.hidden = chosen < 0;
  if (chosen < 0) return;
  MORE = MORE || read('more');
  document.getElementById('one-heading').textContent = POINTS[chosen].name;
  document.getElementById('facts').replaceChildren(
    ...MORE[chosen].facts.flatMap(([name, text]) => [element('dt', name), element('dd', text)]));
}

function plan() {  // of the chosen point, or why there is none
  PLANS = PLANS || read('plans');
  const { plan, plan_missing } = MORE[chosen];
  return { ...(plan == null ? {} : PLANS[plan]), why: plan_missing || 'it was not planned' };
}

function borders(count, perNode, vertical) {  // between nodes
  const made = [];
  for (let at = perNode; perNode > 1 && at < count; at += perNode)
    made.push({ type: 'line', line: { color: css('--soft'), width: 1 }, ...(vertical
      ? { x0: at - 0.5, x1: at - 0.5, yref: 'paper', y0: 0, y1: 1 } : { y0: at - 0.5, y1: at - 0.5, xref: 'paper', x0: 0, x1: 1 }) });
  return made;
}

PICTURES.traffic = () => {
  const { traffic: t, why } = plan();
  if (!t) return { none: 'No traffic: ' + why + '.' };
  const z = Array.from({ length: t.count }, () => Array(t.count).fill(null));
  t.bytes.forEach((n, i) => { z[t.source[i]][t.destination[i]] = n; });
  const total = t.bytes.reduce((a, b) => a + b, 0);
  const local = t.bytes.reduce((a, b, i) => a + (t.source[i] === t.destination[i] ? b : 0), 0);
  const axis = { title: { text: `destination ${t.of}` }, range: [-0.5, t.count - 0.5], constrain: 'domain', dtick: t.count <= 32 ? 1 : undefined, showgrid: false, zeroline: false };
  const far = t.of === 'node' ? 0 : t.bytes.reduce((a, b, i) => a + (Math.floor(t.source[i] / t.per_node) !== Math.floor(t.destination[i] / t.per_node) ? b : 0), 0);
  return {
    traces: [{ type: 'heatmap', name: 'bytes', z, colorscale: 'Viridis', reversescale: true, hoverongaps: false, xgap: t.count <= 64 ? 1 : 0, ygap: t.count <= 64 ? 1 : 0,
      colorbar: { title: { text: 'bytes' } }, hovertemplate: `${t.of} %{y} to ${t.of} %{x}: %{z} bytes<extra></extra>` }],
    layout: layout(Math.min(760, 200 + 22 * t.count), { xaxis: axis, yaxis: { ...axis, title: { text: `source ${t.of}` }, range: [t.count - 0.5, -0.5] },
      shapes: [...borders(t.count, t.per_node, true), ...borders(t.count, t.per_node, false)] }),
    says: `${bytes(total)} in all, ${bytes(local)} of it within a ${t.of} (the diagonal)`
      + (t.of === 'rank' ? `, ${bytes(far)} across nodes; lines are between nodes.` : '; there are too many pairs of ranks to draw, so these are nodes.'),
    head: [`source ${t.of}`, `destination ${t.of}`, 'bytes'],
    rows: t.bytes.map((n, i) => [t.source[i], t.destination[i], n]).sort((a, b) => b[2] - a[2]),
  };
};

const kindLabel = kind => kind.names[0] + (kind.names.length > 1 ? ` and ${kind.names.length - 1} more` : '');

PICTURES.layouts = () => {
  const { layouts: l, why } = plan();
  if (!l) return { none: 'No layouts: ' + why + '.' };
  const traces = [], rows = [], axes = {}, wide = 1 / l.sides.length;
  const first = Math.min(...l.sides.map(s => s.ranks[0])), last = Math.max(...l.sides.map(s => s.ranks[1]));
  l.sides.forEach((side, s) => {
    const xaxis = 'x' + (s ? s + 1 : '');
    axes['xaxis' + (s ? s + 1 : '')] = {
      domain: [s * wide, (s + 1) * wide - 0.02], range: [0, l.kinds.length], title: { text: plain(`${side.name}: ${side.words}`) }, side: 'top',
      tickvals: l.kinds.map((_, k) => k + 0.5), ticktext: l.kinds.map(kind => plain(cut(kindLabel(kind), 34))), tickangle: -40, showgrid: false, zeroline: false };
    l.kinds.forEach((kind, k) => {
      const x = [], y = [], mx = [], my = [], text = [];
      for (const [rank, said, boxes] of kind.held[s]) {
        for (const [left, right, top, bottom] of boxes) {
          const a = k + 0.06 + 0.88 * left, b = k + 0.06 + 0.88 * right, c = rank - 0.4 + 0.8 * top, d = rank - 0.4 + 0.8 * bottom;
          x.push(a, b, b, a, a, null);
          y.push(c, c, d, d, c, null);
        }
        mx.push(k + 0.5);
        my.push(rank);
        text.push(plain(`rank ${rank}: ${said}: ${kind.names.join(', ')}`).slice(0, 300));
        rows.push([rank, side.name, kind.names.join(', '), said]);
      }
      traces.push({ type: 'scatter', mode: 'lines', fill: 'toself', xaxis, x, y, hoverinfo: 'skip', showlegend: s === 0, legendgroup: String(k),
        name: plain(cut(`${kindLabel(kind)}, ${bytes(kind.bytes)}`, 50)), line: { color: colour(k), width: 1 } });
      traces.push({ type: 'scatter', mode: 'markers', xaxis, x: mx, y: my, text, hoverinfo: 'text', showlegend: false, legendgroup: String(k), marker: { opacity: 0, size: 14, color: colour(k) } });
    });
  });
  return {
    traces, layout: layout(Math.min(1400, 320 + 24 * (last - first)), { ...axes, margin: { t: 120, r: 20, b: 30, l: 60 }, legend: { orientation: 'h', y: -0.05, yanchor: 'top' },
      yaxis: { title: { text: 'rank' }, range: [last - 0.5, first - 0.5], dtick: last - first <= 32 ? 1 : undefined, showgrid: false, zeroline: false }, shapes: borders(l.world, l.per_node, false) }),
    says: 'Each column is one kind of tensor: across lie its experts and the axis that is cut, down its layers. A rank needs what is filled after, and does not have to be sent what it has filled before; where two ranks have the same, they are replicas. Lines are between nodes.',
    head: ['rank', 'side', 'tensors', 'holds'], rows,
  };
};

const NO_REPORTS = "No reports of this point's ranks lie beside its record (attempts/<n>/rank<k>.json).";

PICTURES.iterations = () => {
  const t = MORE[chosen].times, warm = POINTS[chosen].warm_s;
  if (!warm.length) return { none: 'No timed refits: only what was measured, and ended as ok, has them.' };
  const traces = t && t.ranks.length <= 64 ? t.ranks.map((rank, i) => ({ type: 'scatter', mode: 'lines+markers', name: `rank ${rank}`, x: t.seconds[i].map((_, n) => n), y: t.seconds[i].map(s => s / 1e6),
    line: { width: 1, color: colour(i) }, marker: { size: 4 }, hoverinfo: 'x+y+name' })) : [];
  traces.push({ type: 'scatter', mode: 'lines+markers', name: 'the refit', x: warm.map((_, n) => n), y: warm, line: { color: css('--ink'), width: 2 }, hoverinfo: 'x+y+name' });
  const drift = MORE[chosen].drift;
  return {
    traces, layout: layout(400, { xaxis: { title: { text: 'timed refit' }, dtick: warm.length <= 30 ? 1 : undefined }, yaxis: { title: { text: 'seconds' }, rangemode: 'tozero' } }),
    says: (drift == null ? 'Drift is not known below twenty refits.' : `Drift, the last tenth over the first: ${drift.toFixed(3)}.`) + (t ? ` ${t.ranks.length} ranks, each from its own start.` : ' ' + NO_REPORTS),
    head: ['timed refit', 'seconds', 'slowest rank'], rows: warm.map((s, n) => [n, seconds(s), t ? t.slowest[n] : '']),
  };
};

PICTURES.spread = () => {
  const { times: t, per_rank } = MORE[chosen], known = Object.entries(per_rank);
  if (!known.length) return { none: 'No seconds of ranks: only what was measured, and ended as ok, has them.' };
  const traces = t ? t.ranks.map((rank, i) => ({ type: 'box', name: String(rank), y: t.seconds[i].map(s => s / 1e6), boxpoints: 'all', jitter: 0.4, pointpos: 0, marker: { size: 4, color: colour(0) }, showlegend: false }))
    : [{ type: 'bar', name: 'median', x: known.map(([rank]) => rank), y: known.map(([, s]) => s), marker: { color: colour(0) } }];
  return {
    traces, layout: layout(380, { xaxis: { type: 'category', title: { text: 'rank' } }, yaxis: { title: { text: 'seconds' }, rangemode: 'tozero' } }),
    says: t ? "Each dot is one timed refit, from the rank's own start." : NO_REPORTS + " These are each rank's medians.",
    head: ['rank', 'median'], rows: known.map(([rank, s]) => [rank, seconds(s)]),
  };
};

PICTURES.slowest = () => {
  const { times: t, straggler } = MORE[chosen];
  if (!t) return { none: NO_REPORTS };
  const counts = t.ranks.map(rank => t.slowest.filter(r => r === rank).length);
  return {
    traces: [{ type: 'bar', name: 'slowest', x: t.ranks.map(String), y: counts, marker: { color: colour(1) }, hoverinfo: 'x+y' }],
    layout: layout(320, { xaxis: { type: 'category', title: { text: 'rank' } }, yaxis: { title: { text: 'timed refits' }, rangemode: 'tozero' } }),
    says: straggler[0].toUpperCase() + straggler.slice(1) + '.',
    head: ['rank', 'times it was the slowest'], rows: t.ranks.map((rank, i) => [rank, counts[i]]),
  };
};

begin();
