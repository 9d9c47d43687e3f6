//! Draws a plot as SVG, without a library: panels side by side, one line each, all on one scale from zero.

use std::fmt::Write as _;

/// One panel, with one line.
pub(crate) struct Panel {
    pub(crate) title: &'static str,
    /// The amount on the axis, and the CPU seconds of a million changes. All steps have the same width.
    pub(crate) points: Vec<(u64, f64)>,
}

const WIDTH: f64 = 220.0;
const HEIGHT: f64 = 180.0;
const MARGIN: f64 = 34.0;

/// The whole picture as SVG.
pub(crate) fn plot(panels: &[Panel]) -> String {
    let most = panels.iter().flat_map(|panel| &panel.points).map(|(_, cpu)| *cpu).fold(0.1, f64::max);
    let width = WIDTH * panels.len() as f64 + MARGIN;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {:.0}\" font-family=\"sans-serif\" \
         font-size=\"11\" fill=\"#222\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"8\" y=\"16\">CPU seconds of coherd per million changes</text>\n",
        HEIGHT + 2.0 * MARGIN
    );
    for (place, panel) in panels.iter().enumerate() {
        draw(&mut svg, panel, MARGIN + WIDTH * place as f64, most);
    }
    svg.push_str("</svg>\n");
    svg
}

fn draw(svg: &mut String, panel: &Panel, left: f64, most: f64) {
    let (bottom, inner) = (MARGIN + HEIGHT - 20.0, WIDTH - MARGIN);
    let x = |step: usize| left + 12.0 + (inner - 24.0) * step as f64 / (panel.points.len() as f64 - 1.0).max(1.0);
    let y = |cpu: f64| bottom - (HEIGHT - 40.0) * cpu / most;
    let right = left + inner;
    let _ = writeln!(svg, "<path d=\"M{left:.0} {bottom:.0}H{right:.0}\" stroke=\"#888\"/>");
    let _ = writeln!(
        svg,
        "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"middle\">{}</text>",
        left + inner / 2.0,
        bottom + 36.0,
        panel.title
    );
    let line: Vec<String> =
        panel.points.iter().enumerate().map(|(step, (_, cpu))| format!("{:.1},{:.1}", x(step), y(*cpu))).collect();
    let _ = writeln!(svg, "<polyline points=\"{}\" fill=\"none\" stroke=\"#06c\" stroke-width=\"2\"/>", line.join(" "));
    for (step, (at, cpu)) in panel.points.iter().enumerate() {
        let (x, y) = (x(step), y(*cpu));
        let _ = writeln!(
            svg,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"#06c\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{cpu:.2}</text>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#666\">{at}</text>",
            y - 8.0,
            bottom + 16.0
        );
    }
}
