//! What a report says, as a list of sections: plain sentences first, detail below. Whoever draws it decides how: the
//! terminal's text is drawn in `text.rs`.

mod answer;
mod appendix;
mod restores;
pub(crate) mod text;

use redrill_model::Report;

/// What a piece of text wants to look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    /// It holds.
    Good,
    /// It does not hold.
    Bad,
    /// It is open, or accepted.
    Open,
    /// Detail.
    Dim,
    /// A name or a heading.
    Bold,
}

/// A piece of text of one tone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) tone: Tone,
    pub(crate) text: String,
}

fn span(tone: Tone, text: impl Into<String>) -> Span {
    Span { tone, text: text.into() }
}

/// One line: columns of indentation, and its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) indent: usize,
    pub(crate) spans: Vec<Span>,
}

/// A line of spans, indented by so many columns: `line!(2, "a", span(Tone::Bold, "b"))`.
macro_rules! line {
    ($indent:expr, $($span:expr),+ $(,)?) => {
        $crate::output::view::Line { indent: $indent, spans: vec![$($crate::output::view::IntoSpan::into_span($span)),+] }
    };
}
use line;

/// A span as it is, or a plain text: what [`line!`] takes.
trait IntoSpan {
    fn into_span(self) -> Span;
}

impl IntoSpan for Span {
    fn into_span(self) -> Span {
        self
    }
}

impl IntoSpan for &str {
    fn into_span(self) -> Span {
        span(Tone::Plain, self)
    }
}

impl IntoSpan for String {
    fn into_span(self) -> Span {
        span(Tone::Plain, self)
    }
}

/// What a section is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SectionKind {
    /// What was drilled, and the answer in a sentence.
    Answer,
    /// One line a claim.
    Claims,
    Finding,
    Restore,
    Losses,
    PlantedFaults,
    Mail,
    Certificates,
    Machine,
    /// What was compared, and what was not.
    Scope,
    Note,
    Stages,
    /// Where it ran, where the evidence lies, how to repeat it.
    Place,
}

/// Lines that belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReportSection {
    pub(crate) kind: SectionKind,
    pub(crate) lines: Vec<Line>,
}

/// The whole report, in the order in which people read it.
pub(crate) fn sections(report: &Report) -> Vec<ReportSection> {
    let mut sections = vec![answer::answer(report), answer::claims(report)];
    sections.extend(report.claims.iter().flat_map(answer::findings));
    sections.extend(restores::sections(report));
    sections.extend(report.machines.iter().filter_map(appendix::machine));
    sections.extend(report.scope.iter().map(appendix::scope));
    sections.extend(report.remarks.iter().map(|remark| appendix::note(remark)));
    sections.extend([appendix::stages(report), appendix::place(report)]);
    sections
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_begins_with_its_answer_and_ends_with_how_to_repeat_it() {
        let report: Report = serde_json::from_value(serde_json::json!({
            "schema": 1, "generator": "redrill 0", "scenario": "web", "summary": "a web server", "commit": "",
            "started": "", "seconds": 1.0, "claims": [], "stages": [], "deploys": [], "machines": [],
            "host": {"acceleration": "kvm", "reason": "it is there", "slowness": 1.0}, "tools": {},
            "remarks": ["one", "two"], "run_dir": "/runs/web", "repeat": "redrill run web"
        }))
        .expect("a report");
        let sections = sections(&report);
        let kinds: Vec<SectionKind> = sections.iter().map(|section| section.kind).collect();
        assert_eq!(
            kinds,
            [
                SectionKind::Answer,
                SectionKind::Claims,
                SectionKind::Note,
                SectionKind::Note,
                SectionKind::Stages,
                SectionKind::Place
            ]
        );
        let last = sections.last().and_then(|section| section.lines.last()).expect("a line");
        assert_eq!(last.spans, [span(Tone::Plain, "Repeat    redrill run web")]);
    }
}
