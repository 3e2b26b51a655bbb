// Pictures of all points that are shown.

const CURVES = read('curves'), PAIRS = read('pairs'), PUBLISHED = read('published');
const MOST_PAIRS = 500;
const ofModel = new Set(POINTS.map(p => p.model)).size > 1 ? p => p.model + ' ' : () => '';
const label = p => `${ofModel(p)}${p.row} \u00b7 ${p.method}` + (p.mode === 'predicted' ? ' \u00b7 predicted' : '');

function some(wanted) {  // the first points that have what is wanted, and what is to be said of it
  const all = shown().map(n => POINTS[n]).filter(wanted), first = all.slice(0, MOST_ROWS);
  const cutOff = all.length > first.length;
  return { points: first, cutOff: cutOff ? ` The first ${first.length} of ${all.length} points; filter or sort to see others.` : '' };
}
const high = lines => 90 + 24 * Math.max(lines, 3);
const marks = (name, x, y, symbol, more = {}) => ({
  type: 'scatter', mode: 'markers', name, x, y, hoverinfo: 'x+name',
  marker: { symbol, size: 13, color: css('--ink'), line: { color: css('--ink'), width: 2 } }, ...more,
});

PICTURES.medians = () => {
  const { points, cutOff } = some(p => p.warm_s.length || p.floor_s != null || p.estimate_s != null);
  if (!points.length) return { none: 'No point that is shown has a time, a floor or an estimate.' };
  const traces = METHODS.map((method, i) => {
    const x = [], y = [];
    points.forEach((p, line) => { if (p.method === method) p.warm_s.forEach(s => { x.push(s); y.push(line); }); });
    return { type: 'scatter', mode: 'markers', name: plain(method), x, y, hoverinfo: 'x+name',
      marker: { color: colour(i), symbol: SYMBOLS[i % SYMBOLS.length], size: 6, opacity: 0.7 } };
  }).filter(trace => trace.x.length);
  for (const [name, key, symbol] of [['median', 'median_s', 'line-ns'], ['floor', 'floor_s', 'triangle-right-open'], ['estimate', 'estimate_s', 'diamond-open']]) {
    const lines = points.map((_, i) => i).filter(i => points[i][key] != null);
    if (lines.length) traces.push(marks(name, lines.map(i => points[i][key]), lines, symbol));
  }
  return {
    traces, layout: layout(high(points.length), { xaxis: { title: { text: 'seconds' }, rangemode: 'tozero' }, yaxis: named(points.map(label)) }),
    says: 'A dot is one timed refit, as long as its slowest rank took.' + cutOff,
    head: ['point', 'median', 'floor', 'estimate', 'timed refits'],
    rows: points.map(p => [label(p), seconds(p.median_s), seconds(p.floor_s), seconds(p.estimate_s), p.warm_s.map(seconds).join(', ')]),
  };
};

PICTURES.fractions = () => {
  const { points, cutOff } = some(p => p.fraction != null);
  if (!points.length) return { none: 'No point that is shown was held against a limit: predictions have none, nor has what did not end as ok.' };
  return {
    traces: [{ type: 'bar', orientation: 'h', name: 'fraction', x: points.map(p => p.fraction), y: points.map((_, i) => i),
      marker: { color: points.map(p => ofMethod(p.method)) }, hoverinfo: 'x' }],
    layout: layout(high(points.length), { xaxis: { title: { text: 'GB/s over those of the limit' }, rangemode: 'tozero', tickformat: '.0%' }, yaxis: named(points.map(label)),
      shapes: [{ type: 'line', x0: 1, x1: 1, yref: 'paper', y0: 0, y1: 1, line: { color: css('--ink'), dash: 'dot' } }] }),
    says: 'Of the tightest of the limits that were measured beside each point, or configured; it can exceed 1 where what is read lies in a cache.' + cutOff,
    head: ['point', 'fraction', 'GB/s', 'limit'],
    rows: points.map(p => [label(p), p.fraction.toFixed(3), p.gbps.toFixed(3), p.limit]),
  };
};

PICTURES.phases = () => {
  const { points, cutOff } = some(p => p.median_s != null);
  if (!points.length) return { none: 'No point that is shown has phases: only what was measured, and ended as ok, does.' };
  const names = [...new Set(points.flatMap(p => [...Object.keys(p.cold_phases), ...Object.keys(p.phases)]))]
    .sort((a, b) => (a === 'unattributed') - (b === 'unattributed'));
  const traces = [], rows = [];
  names.forEach((name, i) => [['cold_phases', 'x'], ['phases', 'x2']].forEach(([key, xaxis]) => {
    if (!points.some(p => p[key][name] != null)) return;
    traces.push({ type: 'bar', orientation: 'h', name: plain(name), legendgroup: name, xaxis, hoverinfo: 'x+name',
      showlegend: !traces.some(t => t.legendgroup === name),
      x: points.map(p => p[key][name] ?? 0), y: points.map((_, line) => line),
      marker: { color: name === 'unattributed' ? '#999999' : colour(i) } });
  }));
  for (const p of points) for (const name of names)
    rows.push([label(p), name, seconds(p.cold_phases[name]), seconds(p.phases[name])]);
  return {
    traces, layout: layout(high(points.length), { barmode: 'stack',
      xaxis: { domain: [0, 0.48], title: { text: 'seconds of the cold refit' } }, xaxis2: { domain: [0.52, 1], title: { text: 'seconds of a timed refit, median' }, anchor: 'y' },
      yaxis: named(points.map(label)) }),
    says: 'unattributed is what of the time no phase holds: waiting, and what is between phases.' + cutOff,
    head: ['point', 'phase', 'cold', 'timed'], rows,
  };
};

PICTURES.knees = () => {
  const left = new Set(shown()), curves = CURVES.filter(c => c.points.some(n => left.has(n)));
  if (!curves.length) return { none: 'No three points that are shown differ in one number alone, such as refit.bucket_mb, refit.max_ops_per_group, refit.in_flight or a number of GPUs.' };
  const drawn = curves.slice(0, 12), rows = [], more = {}, columns = 2, lines = Math.ceil(drawn.length / columns);
  const traces = drawn.flatMap((c, i) => {
    const p = POINTS[c.points[0]], at = i ? i + 1 : '', column = i % columns, line = Math.floor(i / columns);
    const top = 1 - line / lines - 0.09 / lines, low = 1 - (line + 1) / lines + 0.2 / lines;
    const widest = Math.max(...c.values) / Math.max(Math.min(...c.values), 1e-9);
    more['xaxis' + at] = { domain: [column ? 0.56 : 0, column ? 1 : 0.44], anchor: 'y' + at, title: { text: plain(c.number) }, type: widest >= 20 && Math.min(...c.values) > 0 ? 'log' : 'linear' };
    more['yaxis' + at] = { domain: [low, top], anchor: 'x' + at, rangemode: 'tozero', title: { text: 'seconds' } };
    c.values.forEach((value, k) => rows.push([`${c.number} of ${label(p)}`, value, seconds(c.seconds[k]), seconds(c.low[k]), seconds(c.high[k]), k === c.best ? 'best' : '']));
    const name = plain(cut(`${p.mapping} \u00b7 ${p.method}`, 50));
    return [
      { type: 'scatter', mode: 'lines+markers', name, x: c.values, y: c.seconds, xaxis: 'x' + at, yaxis: 'y' + at, marker: { color: ofMethod(p.method) }, line: { color: ofMethod(p.method) }, hoverinfo: 'x+y',
        error_y: { type: 'data', symmetric: false, array: c.high.map((h, k) => h - c.seconds[k]), arrayminus: c.low.map((l, k) => c.seconds[k] - l) } },
      { type: 'scatter', mode: 'markers', name: 'best', showlegend: i === 0, x: [c.values[c.best]], y: [c.seconds[c.best]], xaxis: 'x' + at, yaxis: 'y' + at, hoverinfo: 'x+y',
        marker: { symbol: 'circle-open', size: 18, color: css('--ink'), line: { width: 2 } } },
    ];
  });
  const cutOff = curves.length > drawn.length ? ` The first ${drawn.length} of ${curves.length} curves.` : '';
  return {
    traces, layout: layout(60 + 300 * lines, more),
    says: 'The median, with what it lies between with 95% by the order of the timed refits; of fewer than six, the fastest and the slowest of them. A ring marks the best value.' + cutOff,
    head: ['curve', 'value', 'seconds', 'from', 'to', ''], rows,
  };
};

PICTURES.predicted = () => {
  const left = new Set(shown()), all = PAIRS.filter(p => left.has(p.measured) || left.has(p.predicted)), pairs = all.slice(0, MOST_PAIRS);
  if (!pairs.length) return { none: 'No point was both predicted and measured: the same command with mode=plan and a cluster that states its rates, into the same folder, predicts it.' };
  const x = pairs.map(p => POINTS[p.predicted].estimate_s), y = pairs.map(p => POINTS[p.measured].median_s);
  const names = pairs.map(p => `${label(POINTS[p.measured])} \u00b7 ${POINTS[p.predicted].cluster}`);
  const ends = [Math.min(...x, ...y), Math.max(...x, ...y)];
  return {
    traces: [
      { type: 'scatter', mode: 'markers', name: 'points', x, y, text: names.map(plain), hoverinfo: 'x+y+text', marker: { size: 9, color: pairs.map(p => ofMethod(POINTS[p.measured].method)) } },
      { type: 'scatter', mode: 'lines', name: 'as predicted', x: ends, y: ends, hoverinfo: 'skip', line: { color: css('--soft'), dash: 'dot' } },
    ],
    layout: layout(420, { xaxis: { type: 'log', title: { text: 'estimate, seconds' } }, yaxis: { type: 'log', title: { text: 'median, seconds' } } }),
    says: 'Above the line a refit took longer than was predicted.' + (all.length > pairs.length ? ` The first ${pairs.length} of ${all.length} pairs.` : ''),
    head: ['point, cluster of the prediction', 'estimate', 'median', 'median over estimate'],
    rows: pairs.map((p, i) => [names[i], seconds(x[i]), seconds(y[i]), (y[i] / x[i]).toFixed(2)]),
  };
};

PICTURES.gpus = () => {
  const points = shown().map(n => POINTS[n]).filter(p => p.gpus && (p.median_s ?? p.floor_s) != null), lines = new Map();
  for (const p of points) for (const [what, value] of [['median', p.median_s], ['estimate', p.estimate_s], ['floor', p.floor_s]]) {
    const of = `${p.model} \u00b7 ${p.method}` + (p.mode === 'predicted' ? ` \u00b7 ${p.cluster}` : ''), name = `${of} \u00b7 ${what}`;
    if (value == null) continue;
    if (!lines.has(name)) lines.set(name, []);
    lines.get(name).push({ gpus: p.gpus, value, p, what, of });
  }
  const several = [...lines].filter(([, of]) => new Set(of.map(o => o.gpus)).size > 1);
  if (!several.length) return { none: "No model that is shown has points of different numbers of GPUs; for Kimi K2: python -m refit.run -m mode=plan 'parallel=glob(kimi_k2_*)' cluster=h100,h200" };
  const ofWhat = [...new Set(several.map(([, of]) => of[0].of))];
  several.forEach(([, of]) => of.sort((a, b) => a.gpus - b.gpus || a.value - b.value));
  return {
    traces: several.slice(0, 24).map(([name, of]) => ({ type: 'scatter', mode: of[0].what === 'floor' ? 'markers' : 'lines+markers', name: plain(name), x: of.map(o => o.gpus), y: of.map(o => o.value),
      text: of.map(o => plain(label(o.p))), hoverinfo: 'x+y+text', line: { dash: of[0].what === 'median' ? 'solid' : 'dot', color: colour(ofWhat.indexOf(of[0].of)) },
      marker: { color: colour(ofWhat.indexOf(of[0].of)), size: 8, symbol: { floor: 'triangle-up-open', estimate: 'diamond-open', median: 'circle' }[of[0].what] } })),
    layout: layout(480, { xaxis: { title: { text: 'GPUs that hold weights' } }, yaxis: { title: { text: 'seconds' }, rangemode: 'tozero' } }),
    says: 'Points of one number of GPUs may be other layouts: the table names them.',
    head: ['line', 'GPUs', 'seconds', 'point'],
    rows: several.flatMap(([name, of]) => of.map(o => [name, o.gpus, seconds(o.value), label(o.p)])),
  };
};

PICTURES.published = () => {
  const left = new Set(shown()), refits = PUBLISHED.filter(r => r.points.some(n => left.has(n)));
  if (!refits.length) return { none: 'No point that is shown is a refit that others published; python -m refit.published predicts those.' };
  const dots = refits.flatMap((r, line) => r.points.filter(n => left.has(n)).map(n => ({ line, p: POINTS[n] })));
  return {
    traces: [
      { type: 'scatter', mode: 'markers', name: 'published', x: refits.map(r => (r.low + r.high) / 2), y: refits.map((_, i) => i), hoverinfo: 'x+name', marker: { size: 10, symbol: 'line-ns-open', color: css('--ink') },
        error_x: { type: 'data', symmetric: false, array: refits.map(r => (r.high - r.low) / 2), arrayminus: refits.map(r => (r.high - r.low) / 2) } },
      marks('ours: floor', dots.map(d => d.p.floor_s), dots.map(d => d.line), 'triangle-right-open', { marker: { size: 11, symbol: 'triangle-right-open', color: colour(0) } }),
      marks('ours: estimate or median', dots.map(d => best(d.p)), dots.map(d => d.line), 'diamond', { marker: { size: 10, symbol: 'diamond', color: colour(1) } }),
    ],
    layout: layout(high(refits.length), { xaxis: { title: { text: 'seconds' }, rangemode: 'tozero' }, yaxis: named(refits.map(r => r.name)) }),
    says: "Each on its author's clock, which the table says; ours has no term for framework work.",
    head: ['refit', 'published', 'ours', 'floor', 'clock', 'assumed', 'source'],
    rows: dots.map(d => { const r = refits[d.line]; return [r.name, r.low === r.high ? `${r.low} s` : `${r.low} to ${r.high} s`, seconds(best(d.p)), seconds(d.p.floor_s), r.clock, r.assumed, r.source]; }),
  };
};
