//! Use against limits, drawn as SVG.

use std::fmt::Write as _;

use tw_api::UsageReply;

use super::chart::Curve;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 16.0;
const RIGHT: f64 = 170.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 28.0;

/// Draws all curves below each other, self-contained and without a script.
pub(super) fn draw(reply: &UsageReply, curves: &[Curve]) -> String {
    let height = HEIGHT * curves.len().max(1) as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"13\" role=\"img\">\n\
         <title>What {} used</title>\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        reply.job
    );
    for (index, curve) in curves.iter().enumerate() {
        let _ = write!(
            svg,
            "<g transform=\"translate(0 {})\">\n{}</g>\n",
            index as f64 * HEIGHT,
            panel(reply, curve)
        );
    }
    svg + "</svg>\n"
}

fn panel(reply: &UsageReply, curve: &Curve) -> String {
    let inner = WIDTH - LEFT - RIGHT;
    let (top, bottom) = (TOP, HEIGHT - BOTTOM);
    let highest = curve.top() as f64 * 1.05;
    let x = |at: u64| LEFT + at as f64 / curve.span_ms as f64 * inner;
    let y = |value: u64| bottom - value as f64 / highest * (bottom - top);
    let mut svg = format!(
        "<text x=\"{LEFT}\" y=\"22\" font-weight=\"bold\">{} of {}</text>\n",
        curve.name, reply.job
    );
    let _ = writeln!(
        svg,
        "<line x1=\"{LEFT}\" y1=\"{bottom}\" x2=\"{}\" y2=\"{bottom}\" stroke=\"#888\"/>",
        LEFT + inner
    );
    let mut path = |points: &[(u64, u64)], stroke: &str| {
        let mut steps = String::new();
        for (index, (at, value)) in points.iter().enumerate() {
            let end = points.get(index + 1).map_or(curve.span_ms, |(at, _)| *at);
            let letter = if index == 0 { 'M' } else { 'L' };
            let _ = write!(
                steps,
                "{letter}{:.1} {:.1} H{:.1} ",
                x(*at),
                y(*value),
                x(end)
            );
        }
        let _ = writeln!(
            svg,
            "<path d=\"{}\" fill=\"none\" stroke=\"{stroke}\" stroke-width=\"1.4\"/>",
            steps.trim_end()
        );
    };
    path(&curve.points, "#2a78b8");
    if !curve.usual.is_empty() {
        path(&curve.usual, "#9cc4e4");
    }
    let mut legend = vec![("highest", "#2a78b8")];
    if !curve.usual.is_empty() {
        legend.push(("95% of the time below", "#9cc4e4"));
    }
    for (index, (name, stroke)) in legend.iter().enumerate() {
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"22\" fill=\"{stroke}\">{name}</text>",
            LEFT + inner - 220.0 + index as f64 * 64.0
        );
    }
    let limits = [
        (Some(curve.request), "request", "#c77700"),
        (curve.suggested, "suggested", "#1a8f3c"),
    ];
    for (value, name, stroke) in limits {
        let Some(value) = value else { continue };
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" y1=\"{0:.1}\" x2=\"{1}\" y2=\"{0:.1}\" stroke=\"{stroke}\" \
             stroke-dasharray=\"6 4\"/>\n<text x=\"{2}\" y=\"{3:.1}\" fill=\"{stroke}\">{name} {4}</text>",
            y(value),
            LEFT + inner,
            LEFT + inner + 6.0,
            y(value) + 4.0,
            (curve.show)(value)
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{LEFT}\" y=\"{}\" fill=\"#666\">{} ago</text>\n\
         <text x=\"{}\" y=\"{0}\" fill=\"#666\" text-anchor=\"end\">now</text>",
        HEIGHT - 10.0,
        super::long(tw_model::Millis(curve.span_ms)),
        LEFT + inner
    );
    svg
}
