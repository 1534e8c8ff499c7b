//! Requests against the limit over time, as an SVG: one panel a policy.

use std::fmt::Write;

/// One panel.
pub struct Panel<'a> {
    pub title: String,
    /// Seconds at which requests came, and whether they were let in.
    pub trace: &'a [(f64, bool)],
}

/// Seconds of one bar.
const STEP: f64 = 5.0;
const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 150.0;
const LEFT: f64 = 64.0;
const TOP: f64 = 48.0;
const GAP: f64 = 44.0;

/// Panels one below the other with the same time axis. `limit` is requests a second, `span` seconds.
pub fn svg(title: &str, panels: &[Panel<'_>], limit: f64, span: f64) -> String {
    let whole = TOP + panels.len() as f64 * (HEIGHT + GAP) + 24.0;
    let all = LEFT + WIDTH + 24.0;
    let mut out = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {all} {whole}" width="{all}" height="{whole}" font-family="sans-serif" font-size="12" fill="#222">
<rect width="100%" height="100%" fill="#fff"/>
<text x="{LEFT}" y="20" font-size="15" font-weight="bold">{title}</text>
<rect x="{x1}" y="28" width="10" height="10" fill="#3a76b0"/><text x="{x2}" y="37">let in</text>
<rect x="{x3}" y="28" width="10" height="10" fill="#d9534f"/><text x="{x4}" y="37">refused with 429</text>
<line x1="{x5}" x2="{x6}" y1="33" y2="33" stroke="#222" stroke-dasharray="5 3"/><text x="{x7}" y="37">limit</text>
"##,
        x1 = LEFT,
        x2 = LEFT + 15.0,
        x3 = LEFT + 70.0,
        x4 = LEFT + 85.0,
        x5 = LEFT + 210.0,
        x6 = LEFT + 236.0,
        x7 = LEFT + 242.0,
    );
    for (number, panel) in panels.iter().enumerate() {
        let top = TOP + 22.0 + number as f64 * (HEIGHT + GAP);
        draw(&mut out, panel, top, limit, span);
    }
    let _into_a_string = write!(
        out,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">seconds</text>\n</svg>\n",
        LEFT + WIDTH / 2.0,
        whole - 6.0
    );
    out
}

/// A step of the axis that gives about this many labels.
fn round_step(most: f64, labels: f64) -> f64 {
    let rough = (most / labels).max(1e-9);
    let power = 10f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|step| step * power).into_iter().find(|step| *step >= rough).unwrap_or(rough)
}

fn draw(out: &mut String, panel: &Panel<'_>, top: f64, limit: f64, span: f64) {
    let bars = (span / STEP).ceil() as usize + 1;
    let mut counts = vec![(0.0, 0.0); bars];
    for (at, accepted) in panel.trace {
        if let Some(bar) = counts.get_mut((at / STEP) as usize) {
            let of = if *accepted { &mut bar.0 } else { &mut bar.1 };
            *of += 1.0 / STEP;
        }
    }
    let highest = counts.iter().map(|(yes, no)| yes + no).fold(limit * 1.2, f64::max);
    let (across, up) = (WIDTH / span, HEIGHT / highest);
    let floor = top + HEIGHT;
    let mut line = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    line(format!("<text x=\"{LEFT}\" y=\"{:.1}\" font-weight=\"bold\">{}</text>", top - 6.0, panel.title));
    let step = round_step(highest, 4.0);
    let mut value = 0.0;
    while value <= highest {
        let y = floor - value * up;
        line(format!(
            "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT + WIDTH,
            LEFT - 6.0,
            y + 4.0,
            (value * 100.0).round() / 100.0
        ));
        value += step;
    }
    let step = round_step(span, 10.0);
    let mut at = 0.0;
    while at <= span {
        let x = LEFT + at * across;
        line(format!(
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{floor:.1}\" y2=\"{:.1}\" stroke=\"#222\"/><text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{at}</text>",
            floor + 4.0,
            floor + 16.0
        ));
        at += step;
    }
    let width = (STEP * across).max(0.5);
    for (number, (yes, no)) in counts.iter().enumerate() {
        let x = LEFT + number as f64 * STEP * across;
        if x >= LEFT + WIDTH {
            break;
        }
        for (from, much, colour) in [(0.0, yes, "#3a76b0"), (*yes, no, "#d9534f")] {
            if *much > 0.0 {
                let y = floor - (from + much) * up;
                line(format!(
                    "<rect x=\"{x:.2}\" y=\"{y:.2}\" width=\"{width:.2}\" height=\"{:.2}\" fill=\"{colour}\"/>",
                    much * up
                ));
            }
        }
    }
    let y = floor - limit * up;
    line(format!(
        "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#222\" stroke-dasharray=\"5 3\"/>",
        LEFT + WIDTH
    ));
    let middle = top + HEIGHT / 2.0;
    line(format!(
        "<text x=\"16\" y=\"{middle:.1}\" text-anchor=\"middle\" transform=\"rotate(-90 16 {middle:.1})\">requests a second</text>"
    ));
}
