//! The command line, drawn from clap's own description of it.

use std::fmt::Write;

use clap::{Arg, ArgAction, Command};

use super::{cell, head};
use crate::visible;

pub(super) fn page() -> String {
    let text = "Every command of `redrill`. `redrill COMMAND --help` prints the same, `redrill man DIRECTORY` writes manual \
        pages, and `redrill completions SHELL` prints completions. Results go to standard output, the story to standard error; \
        [exit status](exit-status.md) is a page of its own.";
    let mut out = head("Command line", "`harness/cli/src`, one file a command", text);
    let mut root = visible();
    root.build();
    out.push_str("\n| command | what it does |\n|---|---|\n");
    for command in shown(&root) {
        let anchor = format!("redrill-{}", command.get_name());
        let _ = writeln!(out, "| [`redrill {}`](#{anchor}) | {} |", command.get_name(), cell(&about(command)));
    }
    for command in shown(&root) {
        one(&mut out, command);
    }
    out
}

fn shown(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help")
}

fn about(command: &Command) -> String {
    command.get_about().map(ToString::to_string).unwrap_or_default()
}

fn one(out: &mut String, command: &Command) {
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name()).to_owned();
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ").trim();
    let level = "#".repeat(name.split(' ').count());
    let _ = write!(out, "\n{level} {name}\n\n{}.\n\n```text\n{usage}\n```\n", about(command).trim_end_matches('.'));
    let arguments: Vec<&Arg> = command.get_arguments().filter(|arg| is_shown(arg)).collect();
    if !arguments.is_empty() {
        out.push_str("\n| argument | meaning |\n|---|---|\n");
        for argument in arguments {
            let _ = writeln!(out, "| {} | {} |", written(argument), cell(&meaning(argument)));
        }
    }
    if let Some(more) = command.get_after_help() {
        let _ = write!(out, "\n```text\n{}\n```\n", more.to_string().trim_end());
    }
    for inner in shown(command) {
        one(out, inner);
    }
}

/// `help` and `version` are everywhere.
fn is_shown(argument: &Arg) -> bool {
    let everywhere = matches!(
        argument.get_action(),
        ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong | ArgAction::Version
    );
    !argument.is_hide_set() && !everywhere
}

/// An argument as it is typed.
fn written(argument: &Arg) -> String {
    let names = argument.get_value_names().unwrap_or_default();
    let value = names.iter().map(|name| format!("{name}")).collect::<Vec<_>>().join(" ");
    let takes = argument.get_action().takes_values();
    match (argument.get_long(), argument.get_short()) {
        (Some(long), _) if takes => format!("`--{long} {value}`"),
        (Some(long), Some(short)) => format!("`--{long}`, `-{short}`"),
        (Some(long), None) => format!("`--{long}`"),
        (None, _) => format!("`{value}`"),
    }
}

fn meaning(argument: &Arg) -> String {
    let mut text = argument.get_help().map(ToString::to_string).unwrap_or_default();
    if text.is_empty() {
        text = "See the examples".to_owned();
    }
    let mut text = format!("{}.", text.trim_end_matches('.'));
    let values: Vec<String> = argument
        .get_possible_values()
        .iter()
        .filter(|_| argument.get_action().takes_values())
        .map(|value| format!("`{}`", value.get_name()))
        .collect();
    if !values.is_empty() {
        let _ = write!(text, " One of {}.", values.join(", "));
    }
    let defaults: Vec<String> =
        argument.get_default_values().iter().map(|value| format!("`{}`", value.to_string_lossy())).collect();
    if !defaults.is_empty() && argument.get_action().takes_values() {
        let _ = write!(text, " Default: {}.", defaults.join(", "));
    }
    text
}
