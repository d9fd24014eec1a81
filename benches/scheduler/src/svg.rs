//! Lines over two logarithmic axes, as SVG.

use std::fmt::Write;

/// A line of a plot.
pub struct Line {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 200.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
const COLOURS: [&str; 6] = ["#1b6ca8", "#9aa0a6", "#c4501b", "#2e7d32", "#7b1fa2", "#b28900"];

/// One axis: from a power of ten to another, over some pixels.
struct Axis {
    from: f64,
    to: f64,
    start: f64,
    end: f64,
}

impl Axis {
    fn over(values: impl Iterator<Item = f64> + Clone, start: f64, end: f64) -> Self {
        let low = values.clone().filter(|v| *v > 0.0).fold(f64::INFINITY, f64::min);
        let high = values.fold(1.0, f64::max);
        let low = if low.is_finite() { low } else { 1.0 };
        let (from, to) = (low.log10().floor(), high.log10().ceil());
        Self { from, to: to.max(from + 1.0), start, end }
    }

    fn at(&self, value: f64) -> f64 {
        let part = (value.max(1e-9).log10() - self.from) / (self.to - self.from);
        self.start + part * (self.end - self.start)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        let (from, to) = (self.from as i32, self.to as i32);
        (from..=to).map(|power| 10_f64.powi(power))
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

/// Draws lines.
pub fn plot(title: &str, x_name: &str, y_name: &str, lines: &[Line]) -> String {
    let all = || lines.iter().flat_map(|l| l.points.iter());
    let x = Axis::over(all().map(|p| p.0), LEFT, WIDTH - RIGHT);
    let y = Axis::over(all().map(|p| p.1), HEIGHT - BOTTOM, TOP);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"24\" font-size=\"15\">{}</text>\n",
        escape(title)
    );
    // Writing to a String cannot fail.
    let mut put = |text: String| {
        let _ = writeln!(out, "{text}");
    };
    for tick in x.ticks() {
        let at = x.at(tick);
        put(format!("<line x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{}\" stroke=\"#ddd\"/>", HEIGHT - BOTTOM));
        put(format!("<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{tick}</text>", HEIGHT - BOTTOM + 18.0));
    }
    for tick in y.ticks() {
        let at = y.at(tick);
        put(format!("<line x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>", WIDTH - RIGHT));
        put(format!("<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{tick}</text>", LEFT - 8.0, at + 4.0));
    }
    let middle = (LEFT + WIDTH - RIGHT) / 2.0;
    put(format!("<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{}</text>", HEIGHT - 12.0, escape(x_name)));
    put(format!(
        "<text transform=\"translate(18 {}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
        HEIGHT / 2.0,
        escape(y_name)
    ));
    for (i, line) in lines.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        let points: Vec<String> = line.points.iter().map(|(a, b)| format!("{:.1},{:.1}", x.at(*a), y.at(*b))).collect();
        put(format!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            points.join(" ")
        ));
        let at = TOP + 16.0 + 20.0 * i as f64;
        let from = WIDTH - RIGHT + 14.0;
        put(format!(
            "<line x1=\"{from}\" y1=\"{at}\" x2=\"{}\" y2=\"{at}\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            from + 22.0
        ));
        put(format!("<text x=\"{}\" y=\"{}\">{}</text>", from + 28.0, at + 4.0, escape(&line.name)));
    }
    out.push_str("</svg>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_where_the_values_are() {
        let line = Line { name: "a<b".into(), points: vec![(10.0, 1.0), (1000.0, 100.0)] };
        let text = plot("t", "x", "y", &[line]);
        // The corners of the plot: both axes begin at the smallest and end at the largest power of ten.
        assert!(text.contains("points=\"70.0,370.0 520.0,40.0\""), "{text}");
        assert!(text.contains("a&lt;b"));
    }
}
