package main

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"time"
)

// Measures of the chart, in its own units.
const (
	chartWidth = 1000
	margin     = 24
	// barX is where bars begin, barRoom the longest that one may be, and the rest
	// is for the figures.
	barX, barRoom = margin, 360
	barHeight     = 12
	lineHeight    = 17
	titleHeight   = 20
	rowGap        = 14
	headHeight    = 84
)

// chartStyle is for light ground, and for dark where the reader prefers that. It
// uses no variables, which many programs that draw SVG do not know.
const chartStyle = `
.ground { fill: #ffffff; }
text { fill: #1f2328; font: 13px system-ui, sans-serif; }
.title { font-size: 20px; font-weight: 600; }
.job { font-weight: 600; }
.faint { fill: #59636e; }
.ours { fill: #2563c9; }
.other { fill: #aab4c0; }
.spread { stroke: #1f2328; stroke-width: 1.5; }
.limit { stroke: #c62828; stroke-width: 2; stroke-dasharray: 4 2; }
.missed { fill: #c62828; font-weight: 600; }
@media (prefers-color-scheme: dark) {
  .ground { fill: #0d1117; }
  text { fill: #e6edf3; }
  .faint { fill: #9198a1; }
  .ours { fill: #6ea8fe; }
  .other { fill: #56606b; }
  .spread { stroke: #e6edf3; }
  .limit { stroke: #ff7b72; }
  .missed { fill: #ff7b72; }
}
`

// chart draws each row on a scale of its own: its median as a bar and p90 as a
// line from it, its yardsticks below, its limits as dashed marks.
type chart struct {
	body bytes.Buffer
	y    float64
}

// svg is the chart of the report.
func (r *report) svg() []byte {
	c := &chart{y: headHeight}
	for _, row := range r.Rows {
		c.row(row)
	}
	var out bytes.Buffer
	height := c.y + margin
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%g" viewBox="0 0 %d %g" role="img" aria-label="Benchmark of banger">`+"\n",
		chartWidth, height, chartWidth, height)
	fmt.Fprintf(&out, "<style>%s</style>\n", chartStyle)
	fmt.Fprintf(&out, `<rect class="ground" width="%d" height="%g" rx="8"/>`+"\n", chartWidth, height)
	head := &chart{}
	head.text(margin, 34, "title", "What make bench measured")
	head.text(margin, 54, "faint", fmt.Sprintf("%s · %d × %s · Linux %s · %s", r.Time.Format(time.DateOnly), r.Host.CPUs, r.Host.CPU, r.Host.Kernel, r.Host.QEMU))
	head.text(margin, 72, "faint", "Each job has a scale of its own. Bar: median; line: to p90; grey: yardsticks of the same run; dashed: limit.")
	out.Write(head.body.Bytes())
	out.Write(c.body.Bytes())
	out.WriteString("</svg>\n")
	return out.Bytes()
}

// maxText bounds a line of the chart, in characters; the table has all of it.
const maxText = 140

func (c *chart) text(x, y float64, class, text string) {
	if runes := []rune(text); len(runes) > maxText {
		text = string(runes[:maxText]) + "…"
	}
	fmt.Fprintf(&c.body, `<text x="%g" y="%g" class="%s">`, x, y, class)
	xml.EscapeText(&c.body, []byte(text))
	c.body.WriteString("</text>\n")
}

// row draws one job below what is there.
func (c *chart) row(r row) {
	c.text(barX, c.y+13, "job", r.Name)
	c.y += titleHeight
	if len(r.Samples) == 0 {
		c.text(barX, c.y+11, "faint", "not measured: "+r.Absent)
		c.y += lineHeight + rowGap
		return
	}
	scale := barRoom / r.longest()
	top := c.y
	c.bar("ours", r.bar(), scale)
	c.marks(r, top, scale)
	for _, y := range r.Yardsticks {
		c.yardstick(r, y, scale)
	}
	c.y += rowGap
}

// bar is one line of a job.
type bar struct {
	median, p90 float64
	label       string
	missed      bool
}

func (r row) bar() bar {
	median := quantile(r.Samples, 0.5)
	label := r.show(median)
	if r.Limit > 0 {
		label += " (limit " + r.show(r.Limit) + ")"
	}
	return bar{median, r.p90(), label, r.verdict() == misses}
}

func (c *chart) yardstick(r row, y yardstick, scale float64) {
	if len(y.Samples) == 0 {
		c.text(barX, c.y+11, "faint", y.Name+": could not run here: "+y.Absent)
		c.y += lineHeight
		return
	}
	like := row{Samples: y.Samples, Unit: r.Unit, HigherIsBetter: r.HigherIsBetter}
	b := like.bar()
	b.label = fmt.Sprintf("%s: %s; ratio %.2f", y.Name, b.label, r.ratio(y))
	if y.Limit > 0 {
		b.label += fmt.Sprintf(" (limit %.2f)", y.Limit)
	}
	b.missed = r.verdictAt(y) == misses
	c.bar("other", b, scale)
}

// bar draws one line, with its label behind it or, if it is long, in the rest.
func (c *chart) bar(class string, b bar, scale float64) {
	width := max(1, b.median*scale)
	fmt.Fprintf(&c.body, `<rect x="%d" y="%g" width="%.1f" height="%d" class="%s"/>`+"\n", barX, c.y, width, barHeight, class)
	middle := c.y + barHeight/2
	fmt.Fprintf(&c.body, `<line x1="%.1f" y1="%g" x2="%.1f" y2="%g" class="spread"/>`+"\n",
		barX+width, middle, barX+b.p90*scale, middle)
	ink := "faint"
	if b.missed {
		ink, b.label = "missed", b.label+": missed"
	}
	c.text(barX+max(width, b.p90*scale)+8, c.y+11, ink, b.label)
	c.y += lineHeight
}

// marks draws the limits of a job over its own bar.
func (c *chart) marks(r row, top, scale float64) {
	at := func(value float64) {
		if x := barX + value*scale; value > 0 && x <= barX+barRoom {
			fmt.Fprintf(&c.body, `<line x1="%.1f" y1="%g" x2="%.1f" y2="%g" class="limit"/>`+"\n", x, top-2, x, top+barHeight+2)
		}
	}
	at(r.Limit)
	for _, y := range r.Yardsticks {
		at(y.Limit * quantile(y.Samples, 0.5))
	}
}

// longest is the largest figure of a job that is drawn: limits beyond it are not.
func (r row) longest() float64 {
	most := max(quantile(r.Samples, 0.5), r.p90())
	for _, y := range r.Yardsticks {
		like := row{Samples: y.Samples, HigherIsBetter: r.HigherIsBetter}
		most = max(most, quantile(y.Samples, 0.5), like.p90())
	}
	if most == 0 {
		return 1
	}
	return most
}
