//! The report as text, drawn from its sections.

use redrill_model::Report;

use super::style::Style;
use super::view::{self, Line, Section, Span, Tone};

/// The whole text: a blank line before each section.
pub(super) fn text(report: &Report, style: Style) -> String {
    let sections = view::sections(report);
    let drawn: Vec<String> = sections.iter().map(|section| draw(section, style)).collect();
    format!("\n{}", drawn.join("\n\n"))
}

pub(super) fn draw(section: &Section, style: Style) -> String {
    section.lines.iter().map(|line| draw_line(line, style)).collect::<Vec<_>>().join("\n")
}

fn draw_line(line: &Line, style: Style) -> String {
    let spans: String = line.spans.iter().map(|span| paint(span, style)).collect();
    format!("{:indent$}{spans}", "", indent = line.indent)
}

fn paint(span: &Span, style: Style) -> String {
    match span.tone {
        Tone::Plain => span.text.clone(),
        Tone::Good => style.good(&span.text),
        Tone::Bad => style.bad(&span.text),
        Tone::Open => style.open(&span.text),
        Tone::Dim => style.dim(&span.text),
        Tone::Bold => style.bold(&span.text),
    }
}
