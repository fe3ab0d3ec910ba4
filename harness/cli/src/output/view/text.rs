//! The report as text, drawn from its sections.

use redrill_model::Report;

use super::{Line, ReportSection, Span, Tone};
use crate::output::style::Colours;

/// The whole text: a blank line before each section.
pub(crate) fn text(report: &Report, style: Colours) -> String {
    let sections = super::sections(report);
    let drawn: Vec<String> = sections.iter().map(|section| draw(section, style)).collect();
    format!("\n{}", drawn.join("\n\n"))
}

pub(crate) fn draw(section: &ReportSection, style: Colours) -> String {
    section.lines.iter().map(|line| draw_line(line, style)).collect::<Vec<_>>().join("\n")
}

fn draw_line(line: &Line, style: Colours) -> String {
    let spans: String = line.spans.iter().map(|span| paint(span, style)).collect();
    format!("{:indent$}{spans}", "", indent = line.indent)
}

fn paint(span: &Span, style: Colours) -> String {
    match span.tone {
        Tone::Plain => span.text.clone(),
        Tone::Good => style.good(&span.text),
        Tone::Bad => style.bad(&span.text),
        Tone::Open => style.open(&span.text),
        Tone::Dim => style.dim(&span.text),
        Tone::Bold => style.bold(&span.text),
    }
}
