//! `redrill man`: manual pages, drawn from the command line's own description.

use std::io;
use std::path::{Path, PathBuf};

use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::environment::{For, VARIABLES};
use crate::output::Failure;
use crate::status::STATUSES;
use crate::{Ended, visible};

/// Write manual pages: redrill(1), and one for each command.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: redrill man ~/.local/share/man/man1")]
pub(crate) struct Args {
    /// Where to; made if it is missing.
    directory: PathBuf,
}

pub(crate) fn exec(args: &Args) -> Ended {
    write(&args.directory).map(|()| 0).map_err(|error| {
        Failure::unknown(&format!("cannot write manual pages into `{}`", args.directory.display()), &error)
    })
}

fn write(directory: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    clap_mangen::generate_to(visible(), directory)?;
    std::fs::write(directory.join("redrill.1"), main_page()?)
}

/// The page of `redrill` itself, which also has what no command line says.
fn main_page() -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    let mut command = visible();
    command.build();
    Man::new(command).render(&mut page)?;
    let mut more = Roff::new();
    more.control("SH", ["EXIT STATUS"]);
    for (status, meaning) in STATUSES {
        more.control("TP", []).text([bold(*status)]).text([roman(*meaning)]);
    }
    more.control("SH", ["ENVIRONMENT"]);
    for variable in VARIABLES.iter().filter(|variable| variable.set_by == For::You) {
        more.control("TP", []).text([bold(variable.name)]).text([roman(variable.meaning)]);
    }
    more.to_writer(&mut page)?;
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_page_for_each_command_and_the_main_one_says_more() {
        let place = tempfile::tempdir().expect("a directory");
        write(place.path()).expect("written");
        let page = std::fs::read_to_string(place.path().join("redrill.1")).expect("the main page");
        assert!(page.contains("EXIT STATUS") && page.contains("REDRILL_CACHE_DIR"), "{page}");
        for command in visible().get_subcommands() {
            let name = format!("redrill-{}.1", command.get_name());
            assert!(place.path().join(&name).is_file(), "{name} is missing");
        }
    }
}
