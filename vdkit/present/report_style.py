"""How a report looks: one style sheet, for a browser and for A4."""

STYLESHEET = """
:root { color-scheme: light; --ink: #1b1f24; --soft: #57606a; --line: #d0d7de; --tint: #f6f8fa;
  --blue: #0072b2; --red: #c00000; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 2rem 3rem; max-width: 70rem; color: var(--ink);
  background: #fff; font: 16px/1.55 system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
header { border-bottom: 3px solid var(--blue); padding-bottom: 1.1rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .9rem; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 0 0 .8rem; padding-bottom: .3rem;
  border-bottom: 1px solid var(--line); }
h3 { font-size: 1.02rem; margin: 1.6rem 0 .4rem; }
p, ul { margin: .5rem 0 .8rem; max-width: 60rem; overflow-wrap: anywhere; }
ul { padding-left: 1.2rem; }
section { margin-top: 2.4rem; }
.kicker { margin: 0 0 .3rem; color: var(--blue); font-size: .85rem; font-weight: 600;
  letter-spacing: .02em; }
.summary p { margin: 0 0 .55rem; font-size: 1.08rem; }
.note, .note li { color: var(--soft); font-size: .86rem; line-height: 1.5; }
.warning { border: 1px solid var(--red); border-left-width: 6px; background: #fff5f5;
  padding: .55rem 1rem; margin: .8rem 0 1.1rem; }
.warning p, .warning ul { margin: .25rem 0; }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; margin-top: 1rem; font-size: .9rem; }
a { color: var(--blue); text-decoration: none; }
a:hover { text-decoration: underline; }
.scroll { overflow-x: auto; margin: .6rem 0 1rem; }
table { border-collapse: collapse; font-size: .86rem; line-height: 1.35;
  font-variant-numeric: tabular-nums; border-bottom: 1px solid var(--line); }
caption { text-align: left; font-weight: 600; padding: 0 0 .35rem; }
th, td { padding: .34rem .6rem; text-align: left; vertical-align: top;
  border-top: 1px solid var(--line); }
th { vertical-align: bottom; background: var(--tint); font-weight: 600; border-top: 0; }
.wide { font-size: .8rem; }
.wide th, .wide td { padding: .3rem .42rem; }
.wide td:first-child { min-width: 7.5em; }
.number { text-align: right; }
td.number, .interval { white-space: nowrap; }
.wide td.number { white-space: normal; }
tbody tr:nth-child(even) { background: #fbfcfd; }
td:first-child { font-weight: 500; }
.facts td { overflow-wrap: anywhere; }
.facts td:first-child { white-space: nowrap; color: var(--soft); }
.facts tr.differs td { background: #fff8e5; }
figure { margin: 1rem 0 1.5rem; }
figure img { display: block; width: 100%; max-width: 58rem; height: auto; }
figcaption { color: var(--soft); font-size: .86rem; max-width: 58rem; margin-top: .35rem; }
pre { background: var(--tint); border: 1px solid var(--line); padding: .8rem 1rem; margin: .6rem 0;
  font: .84rem/1.5 ui-monospace, "DejaVu Sans Mono", Consolas, monospace; white-space: pre-wrap;
  overflow-wrap: anywhere; }
footer { margin-top: 2.6rem; padding-top: .7rem; border-top: 1px solid var(--line);
  color: var(--soft); font-size: .82rem; overflow-wrap: anywhere; }
@page { size: A4; margin: 16mm 15mm 17mm; }
@media print {
  body { padding: 0; max-width: none; font-size: 10pt; line-height: 1.42;
    print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  nav { display: none; }
  h1 { font-size: 19pt; }
  h2 { font-size: 13pt; }
  h3 { font-size: 10.5pt; }
  h2, h3, caption { break-after: avoid; }
  p, li { orphans: 3; widows: 3; }
  section { margin-top: 7mm; }
  .summary p { font-size: 10.5pt; }
  .note, .note li, figcaption, footer { font-size: 8pt; }
  .scroll { overflow: visible; }
  table { font-size: 8pt; break-inside: avoid; max-width: 100%; }
  .long { break-inside: auto; }
  thead { display: table-header-group; }
  tr, figure, pre, .warning { break-inside: avoid; }
  th, td { padding: 1mm 1.6mm; }
  .wide { font-size: 7pt; }
  .wide th, .wide td { padding: .8mm .9mm; }
  .wide td:first-child { min-width: 0; }
  figure { margin: 3mm 0 5mm; }
  figure img { max-width: 160mm; max-height: 225mm; object-fit: contain; object-position: left; }
  pre { font-size: 8pt; }
  a { color: inherit; }
  footer { margin-top: 5mm; break-before: avoid; }
}
"""
