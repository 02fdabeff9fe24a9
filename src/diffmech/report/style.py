"""The page's style sheet and script. They are Python text so that the page needs no other file and its code is tracked.

The script draws every chart from the specification that the page carries, in the reader's colour scheme and at the
width there is, and offers each chart's data as a table. It requests nothing from anywhere.
"""

CSS = """
:root{color-scheme:light dark;--text:#1d2733;--quiet:#566373;--line:#dfe4ea;--page:#fbfbf9;--card:#ffffff;
--accent:#0b5c94;
--found:#00694c;--not-found:#566373;--caution:#8a5300;--wash:#f1f4f7}
@media (prefers-color-scheme:dark){:root{--text:#e8ecf1;--quiet:#a3afbd;--line:#2e3641;--page:#14181d;--card:#1a2027;
--accent:#7cc0ff;--found:#4fd1a5;--not-found:#a3afbd;--caution:#f0b45c;--wash:#212832}}
*{box-sizing:border-box}
html{scroll-behavior:smooth;-webkit-text-size-adjust:100%}
@media (prefers-reduced-motion:reduce){html{scroll-behavior:auto}}
body{margin:0;background:var(--page);color:var(--text);
font:16px/1.55 system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue','DejaVu Sans',Arial,sans-serif}
a{color:var(--accent)}
.skip{position:absolute;left:-999px}.skip:focus{left:8px;top:8px;background:var(--card);padding:8px}
.frame{display:grid;grid-template-columns:190px minmax(0,980px);gap:48px;justify-content:center;max-width:1300px;
margin:0 auto;padding:0 24px}
nav{position:sticky;top:0;align-self:start;max-height:100vh;overflow:auto;padding:44px 0 24px;font-size:14px}
nav ol{list-style:none;margin:0;padding:0}nav li{margin:0 0 7px}nav a{color:var(--quiet);text-decoration:none}
nav a:hover{color:var(--accent);text-decoration:underline}
header{padding:40px 0 8px}h1{font-size:30px;line-height:1.2;letter-spacing:-.01em;margin:0 0 8px;font-weight:650;
text-wrap:balance}
.lead{color:var(--quiet);margin:0;max-width:68ch}
section{padding:30px 0 10px;border-top:1px solid var(--line);margin-top:30px}
h2{font-size:21px;line-height:1.25;margin:0 0 8px;font-weight:650}h3{font-size:16px;margin:26px 0 6px;font-weight:650}
p{overflow-wrap:break-word;margin:0 0 12px;max-width:72ch}ul{padding-left:20px;max-width:72ch}li{margin-bottom:4px}
.quiet,figcaption,.note{color:var(--quiet);font-size:14px}
code{font:13px ui-monospace,'SF Mono',Menlo,Consolas,'DejaVu Sans Mono',monospace;overflow-wrap:anywhere}
.findings{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));gap:16px;margin:18px 0}
.finding{background:var(--card);border:1px solid var(--line);border-left:4px solid var(--not-found);
border-radius:6px;padding:16px 18px}
.finding.found{border-left-color:var(--found)}.finding.caution{border-left-color:var(--caution);grid-column:1/-1}
.finding .tag{font-size:12px;font-weight:650;letter-spacing:.03em;color:var(--not-found)}
.finding.found .tag{color:var(--found)}.finding.caution .tag,.finding.untold .tag{color:var(--caution)}
.finding.untold{border-left-style:dashed}
.finding h3{margin:2px 0 6px}.finding .answer{font-weight:600;margin-bottom:8px}.finding ul{margin:0 0 10px;
padding-left:18px;font-size:14.5px}
.banner{border:1px solid var(--line);border-left:4px solid var(--caution);background:var(--card);border-radius:6px;
padding:14px 18px;margin:18px 0}
.banner p:last-child{margin:0}
.facts{display:grid;grid-template-columns:fit-content(45%) minmax(0,1fr);gap:4px 20px;margin:12px 0 16px;font-size:15px}
.facts dt{color:var(--quiet)}.facts dd{margin:0;overflow-wrap:anywhere}
figure{margin:18px 0 26px}figcaption{margin-top:6px;max-width:76ch}
.chart{width:100%;min-height:40px;overflow-x:auto}.chart svg{display:block;max-width:none}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,300px),1fr));gap:22px}
.pair figure,.two figure{margin:8px 0}
.two{display:grid;gap:4px 26px;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr))}
td.wide{min-width:220px}img.pixels{display:block;image-rendering:pixelated;width:100%;height:auto;border-radius:3px}
.gallery{display:grid;grid-template-columns:minmax(90px,max-content) minmax(0,560px);gap:5px 14px;align-items:center;
margin:14px 0;font-size:14px}
.mechanism{border-top:1px solid var(--line);padding:14px 0 6px}.mechanism h4{margin:0 0 4px;font-size:15px}
.tokens{display:grid;grid-template-columns:repeat(auto-fill,minmax(68px,1fr));gap:10px}.tokens{margin-bottom:14px}
.tokens figure{margin:0}
.tokens figcaption{font-size:12px;line-height:1.3;margin-top:3px}
.scroll{overflow-x:auto;margin:12px 0 18px;border:1px solid var(--line);border-radius:6px;background:var(--card)}
table{border-collapse:collapse;width:100%;font-size:13.5px;font-variant-numeric:tabular-nums}
.caption{margin:16px 0 6px}.caption+.scroll{margin-top:0}
th,td{padding:6px 12px;text-align:left;border-bottom:1px solid var(--line);vertical-align:top}
tr:last-child td{border-bottom:0}
th{min-width:60px;font-weight:600;vertical-align:bottom;background:var(--wash)}td.n{text-align:right;white-space:nowrap}
th.n{text-align:right}
details{margin:8px 0}summary{cursor:pointer;color:var(--accent);font-size:14px;width:fit-content}
details.data .scroll{max-height:380px;overflow:auto}
pre{background:var(--wash);border-radius:6px;padding:14px;overflow:auto;font-size:12.5px;line-height:1.45;
max-height:560px}
.front{max-width:1180px;margin:0 auto;padding:0 24px}
.study{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:20px 24px;margin:22px 0}
.study h2{font-size:19px;margin:0 0 10px}.study h2 a{text-decoration:none}.study h2 a:hover{text-decoration:underline}
.study.absent{border-style:dashed;background:none}.study.absent h2{color:var(--quiet)}.study.absent p{margin:0}
.study .body{display:grid;grid-template-columns:minmax(0,1fr) minmax(0,460px);gap:30px}
.verdicts{list-style:none;margin:0;padding:0;max-width:none}
.verdicts li{display:grid;grid-template-columns:108px minmax(0,1fr);gap:0 14px;padding:11px 0;margin:0;
border-top:1px solid var(--line)}.verdicts li:first-child{border-top:0;padding-top:2px}
.verdicts .tag{font-size:12px;font-weight:650;letter-spacing:.03em;line-height:1.9;color:var(--not-found)}
.verdicts .found .tag{color:var(--found)}.verdicts .caution .tag,.verdicts .untold .tag{color:var(--caution)}
.verdicts h3{margin:0 0 2px;font-size:15px}.verdicts h3 a{color:inherit;text-decoration:none}
.verdicts h3 a:hover{color:var(--accent);text-decoration:underline}.verdicts p{margin:0 0 3px;font-size:14.5px}
.pictures figure{margin:0 0 16px}.pictures img{display:block;width:100%;height:auto;background:#fff;
border-radius:5px;padding:8px}
footer{color:var(--quiet);font-size:13px;padding:26px 0 60px}
:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
@media (max-width:1020px){.frame{grid-template-columns:minmax(0,980px);gap:0}nav{position:static;max-height:none;
padding:20px 0 0}
nav ol{display:flex;flex-wrap:wrap;gap:4px 14px}nav li{margin:0}header{padding-top:18px}}
@media (prefers-color-scheme:dark){.pictures img[src^="data:image/svg"]{filter:invert(.9) hue-rotate(180deg)}}
@media (max-width:900px){.study .body{grid-template-columns:minmax(0,1fr);gap:18px}}
@media (max-width:560px){.front{padding:0 16px}.study{padding:16px}.verdicts li{grid-template-columns:1fr}
body{font-size:15.5px}.frame{padding:0 16px}h1{font-size:25px}
.facts{grid-template-columns:1fr;gap:0}.facts dd{margin-bottom:8px}
.gallery{grid-template-columns:1fr;gap:2px}.gallery img{margin-bottom:8px}th,td{padding:5px 9px}}
@media print{body{background:#fff;font-size:10.5pt}nav,.skip,details.data{display:none}.frame{display:block;
max-width:none;padding:0}
section{break-inside:auto}figure,.finding,.mechanism,tr{break-inside:avoid}h2,h3{break-after:avoid}
.chart{overflow:visible}.chart svg{max-width:100%;height:auto}.chart[data-theme=dark]{background:#14181d;
-webkit-print-color-adjust:exact;print-color-adjust:exact}
.scroll{overflow:visible}pre{max-height:none;white-space:pre-wrap}a{color:inherit}}
"""

SCRIPT = """
'use strict';
const themes = JSON.parse(document.getElementById('themes').textContent);
const dark = matchMedia('(prefers-color-scheme: dark)');
const NARROW = 620;

// CSV as pandas writes it: cells with a comma, a quote or a line break stand in quotes, and quotes inside are doubled.
function cells(text) {
  const rows = [[]];
  for (const [, quoted, plain, end] of text.matchAll(/(?:"((?:[^"]|"")*)"|([^,\\n]*))(,|\\n|$)/g)) {
    rows.at(-1).push(quoted === undefined ? plain : quoted.replaceAll('""', '"'));
    if (end === '\\n') rows.push([]);
    if (end === '') break;
  }
  return rows.filter(row => row.length > 1 || row[0]);
}

function dataOf(spec) { return Object.values(spec.datasets || {})[0]; }

function fitted(source, width, squeeze) {
  const spec = structuredClone(source);
  spec.config = structuredClone(themes[dark.matches ? 'dark' : 'light']);
  spec.config.background = 'transparent';
  const narrow = width < NARROW;
  if (narrow) {
    spec.config.legend.columns = 1;
    spec.config.legend.labelLimit = width - 60;
    spec.config.legend.layout = {top: {direction: 'vertical', anchor: 'start'}};
  }
  if (!spec.facet) { spec.width = width; return spec; }
  const most = spec.usermeta.panels;
  const columns = !narrow ? most : (most < 4 || width < 420 ? 1 : 2);
  spec.columns = columns;
  spec.spec.width = Math.max(70, Math.floor((width - squeeze) / columns - 24));
  return spec;
}

async function draw(box) {
  const source = JSON.parse(document.getElementById(box.dataset.spec).textContent);
  const width = Math.floor(box.clientWidth);
  box.dataset.width = width;
  box.dataset.theme = dark.matches ? 'dark' : 'light';
  const options = {actions: false, renderer: 'svg', tooltip: {theme: dark.matches ? 'dark' : 'light'}};
  let squeeze = 60;
  for (let attempt = 0; attempt < 6; attempt++) {
    await vegaEmbed(box, fitted(source, width, squeeze), options);
    const drawn = box.querySelector('svg');
    const excess = Number(drawn.getAttribute('width')) - width;
    if (!source.facet || (excess <= 0 && excess > -30)) break;
    squeeze += excess + 2;
  }
  box.dataset.drawn = 'yes';
}

async function drawAll() {
  for (const box of document.querySelectorAll('.chart')) {
    try {
      await draw(box);
    } catch (error) {
      box.textContent = 'This chart could not be drawn: ' + error.message;
      console.error(error);
    }
  }
  document.body.dataset.charts = 'drawn';
}

function showTable(details) {
  const target = details.querySelector('.scroll');
  if (!details.open || target.firstChild) return;
  const spec = JSON.parse(document.getElementById(details.dataset.spec).textContent);
  const text = dataOf(spec);
  const [names, ...rows] = cells(text);
  const table = target.appendChild(document.createElement('table'));
  const head = table.createTHead().insertRow();
  for (const name of names) {
    head.appendChild(Object.assign(document.createElement('th'), {textContent: name, scope: 'col'}));
  }
  const body = table.createTBody();
  for (const row of rows) {
    const line = body.insertRow();
    for (const cell of row) line.insertCell().textContent = cell;
  }
  const link = details.appendChild(document.createElement('a'));
  link.href = URL.createObjectURL(new Blob([text], {type: 'text/csv'}));
  link.download = details.dataset.spec.replace('spec-', '') + '.csv';
  link.textContent = 'Save this table as CSV';
}

document.querySelectorAll('details.data').forEach(d => d.addEventListener('toggle', () => showTable(d)));
let waiting;
function redraw() { clearTimeout(waiting); waiting = setTimeout(drawAll, 150); }
dark.addEventListener('change', redraw);
addEventListener('resize', () => {
  const box = document.querySelector('.chart');
  if (box && Math.abs(box.clientWidth - Number(box.dataset.width)) > 8) redraw();
});
drawAll();
"""
