"""The page's style sheet: light and dark, wide and phone, without anything from elsewhere."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #f4f6f8; --card: #ffffff; --ink: #17212b; --muted: #5c6a78; --rule: #dde3e9; --shade: #edf1f5;
  --accent: #1259b8; --good: #1c7a3d; --good-wash: #e3f4e8; --bad: #b3261e; --bad-wash: #fbe7e5; --warn-wash: #fff4d6;
  --mark: #fff0b3;
  --c1: #1463c4; --c2: #d4550c; --c3: #1f8a4c; --c4: #8a3aa8; --c5: #0d8291; --c6: #a8740a;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #0f141a; --card: #171e26; --ink: #e7edf3; --muted: #97a5b4; --rule: #2b3641; --shade: #1f2832;
    --accent: #79b0ff; --good: #6fd491; --good-wash: #16301f; --bad: #ff8f86; --bad-wash: #3a1c1a; --warn-wash: #352b10;
    --mark: #55470f;
    --c1: #6ea8fe; --c2: #ff9a4d; --c3: #63d08c; --c4: #cf8ff0; --c5: #4fc6d6; --c6: #e3b341;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
}
main { max-width: 76rem; margin: 0 auto; padding: clamp(1rem, 3vw, 2.5rem); }
h1 {
  font-size: clamp(1.5rem, 4vw, 2.1rem); line-height: 1.15; margin: 0; letter-spacing: -.015em;
  overflow-wrap: anywhere;
}
h2 { font-size: 1.2rem; margin: 2.4rem 0 .8rem; letter-spacing: -.005em; }
h3 { font-size: .95rem; margin: 0; }
p { margin: .3rem 0; }
.sub, .note { color: var(--muted); }
.note { font-size: .83rem; line-height: 1.4; }
.card {
  background: var(--card); border: 1px solid var(--rule); border-radius: 12px; padding: 1rem 1.1rem;
  min-width: 0;
}
.stages { display: flex; flex-wrap: wrap; gap: .8rem 2.4rem; align-items: flex-end; margin-top: 1.2rem; }
.stage .value { font-size: clamp(1.7rem, 5vw, 2.6rem); font-weight: 650; line-height: 1.1; letter-spacing: -.02em; }
.stage, .tile { font-variant-numeric: tabular-nums; }
.stage .label, .tile .label { color: var(--muted); font-size: .85rem; }
.stage.final .value { color: var(--accent); }
.stage.gain { margin-left: auto; text-align: right; }
.stage.gain .value { font-size: clamp(1.3rem, 4vw, 1.8rem); }
.up { color: var(--good); } .down { color: var(--bad); }
.track { flex-basis: 100%; margin: 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .8rem; margin-top: .8rem; }
.tile { padding: .7rem .9rem; }
.tile .value { font-size: 1.25rem; font-weight: 600; }
.findings { background: var(--warn-wash); border-radius: 12px; padding: .8rem 1.1rem; margin-top: .8rem; }
.findings ul { margin: .3rem 0 0; padding-left: 1.2rem; overflow-wrap: anywhere; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: .8rem; }
main > * + .card, .hero + .charts { margin-top: .8rem; }
figure { margin: 0; }
figure svg { display: block; width: 100%; height: auto; margin-top: .4rem; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
figure.hero svg.narrow { display: none; }
@media (max-width: 46rem) { figure.hero svg.wide { display: none; } figure.hero svg.narrow { display: block; } }
.keys { display: flex; flex-wrap: wrap; gap: .1rem 1rem; font-size: .83rem; margin-top: .2rem; }
.keys i {
  display: inline-block; width: .85rem; height: .2rem; border-radius: 2px; vertical-align: middle;
  margin-right: .35rem;
}
.keys b { font-variant-numeric: tabular-nums; }
.k1 { background: var(--c1); } .k2 { background: var(--c2); } .k3 { background: var(--c3); }
.k4 { background: var(--c4); } .k5 { background: var(--c5); } .k6 { background: var(--c6); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; font-variant-numeric: tabular-nums; }
th { text-align: left; color: var(--muted); font-weight: 500; }
th, td {
  padding: .32rem .9rem .32rem 0; border-bottom: 1px solid var(--rule); vertical-align: top;
  white-space: nowrap;
}
tr:last-child td { border-bottom: 0; }
tr.total td { font-weight: 600; }
.settings td:last-child {
  white-space: normal; overflow-wrap: anywhere; font-family: ui-monospace, Menlo, Consolas, monospace;
  font-size: .82rem;
}
.settings td:first-child { color: var(--muted); white-space: normal; overflow-wrap: anywhere; width: 45%; }
.spark { width: 7.5rem; height: 1.4rem; display: block; }
.spark polyline { fill: none; stroke: var(--c1); stroke-width: 1.5; }
.bar { display: flex; height: .8rem; border-radius: 4px; overflow: hidden; gap: 2px; margin: .6rem 0 .5rem; }
.bar span { min-width: 2px; }
details { margin-top: .8rem; }
summary { cursor: pointer; font-weight: 600; }
details[open] > summary { margin-bottom: .6rem; }
.pick { position: absolute; opacity: 0; pointer-events: none; }
.picks { display: flex; flex-wrap: wrap; gap: .4rem; margin: .6rem 0 .9rem; }
.picks label {
  border: 1px solid var(--rule); background: var(--card); border-radius: 999px; padding: .2rem .8rem;
  font-size: .85rem; cursor: pointer;
}
.pair { padding: .8rem 1rem; margin-bottom: .7rem; }
.pair .prompt { white-space: pre-wrap; overflow-wrap: anywhere; }
.pair .answer { color: var(--muted); font-size: .88rem; margin-top: .15rem; overflow-wrap: anywhere; }
.sides {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 1fr)); gap: .6rem;
  margin-top: .6rem;
}
.side {
  border-radius: 8px; background: var(--shade); padding: .5rem .7rem; min-width: 0;
  border-left: 4px solid var(--rule);
}
.side.right { border-left-color: var(--good); background: var(--good-wash); }
.side.wrong { border-left-color: var(--bad); background: var(--bad-wash); }
.side .head { display: flex; justify-content: space-between; gap: 1rem; font-size: .8rem; color: var(--muted); }
.side.right .verdict { color: var(--good); font-weight: 600; }
.side.wrong .verdict { color: var(--bad); font-weight: 600; }
.side pre {
  margin: .25rem 0 0; white-space: pre-wrap; overflow-wrap: anywhere; max-height: 22rem; overflow-y: auto;
  font: .88rem/1.5 ui-monospace, Menlo, Consolas, monospace;
}
.side mark { background: var(--mark); color: inherit; border-radius: 3px; padding: 0 .2em; }
footer { color: var(--muted); font-size: .83rem; margin-top: 2.5rem; overflow-wrap: anywhere; }
code { font-family: ui-monospace, Menlo, Consolas, monospace; font-size: .9em; }
@media print { .charts, .pair, .card { break-inside: avoid; } }
"""
