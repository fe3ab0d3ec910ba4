//! `redrill completions`: what a shell needs to complete the command line.

use clap_complete::Shell;

use crate::{Ended, output, visible};

/// Print completions for a shell.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  redrill completions bash > ~/.local/share/bash-completion/completions/redrill
  redrill completions fish > ~/.config/fish/completions/redrill.fish
  redrill completions zsh > ~/.zfunc/_redrill        with ~/.zfunc in fpath")]
pub(crate) struct Args {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn exec(args: &Args) -> Ended {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut visible(), "redrill", &mut script);
    output::raw(&script).map(|()| 0)
}
