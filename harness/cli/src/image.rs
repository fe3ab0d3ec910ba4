//! `redrill image`: base images.

use std::sync::Arc;

use redrill_machines::container::{self, Copy};
use redrill_machines::host;
use redrill_machines::image::{BuildError, Catalog, CatalogError, ImageBuilder, Store};
use redrill_machines::qemu::Templates;

use crate::output::{self, Failure};
use crate::{Ended, home, program};

/// Build, list and prune base images.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Examples:
  redrill image build                all of images/*
  redrill image build debian-13 --refresh
  redrill image list
  redrill image prune --keep 1")]
pub(crate) enum Args {
    /// Build or download what images/NAME/image.toml names, unless it is in the cache.
    #[command(after_help = "Example: redrill image build debian-13 --refresh")]
    Build {
        /// Names; all there are by default.
        names: Vec<String>,
        /// Build anew with today's packages, or download again, although the cache has one.
        #[arg(long)]
        refresh: bool,
        /// Take packages from here instead of the host's own mirror.
        #[arg(long)]
        mirror: Option<String>,
    },
    /// List the images in the cache.
    #[command(after_help = "Example: redrill image list")]
    List,
    /// Remove old images, and what interrupted builds and downloads left.
    #[command(after_help = "Example: redrill image prune --keep 0")]
    Prune {
        /// How many of each name stay.
        #[arg(long, default_value_t = 1)]
        keep: usize,
    },
}

pub(crate) async fn exec(args: Args) -> Ended {
    let store = Store::new(&home().cache);
    match args {
        Args::Build { names, refresh, mirror } => build(store, names, refresh, mirror).await,
        Args::List => {
            output::images(&store.list());
            Ok(0)
        }
        Args::Prune { keep } => {
            let before = store.list();
            let mut removed = store.prune(keep).map_err(|error| Failure::unknown("cannot prune the images", &error))?;
            let left: Vec<String> = store.list().into_iter().map(|image| image.digest).collect();
            let gone = before.into_iter().filter(|image| !left.contains(&image.digest));
            let gone: Vec<(String, String)> = gone.map(|image| (image.manifest.name, image.digest)).collect();
            for copy in container::forget_copies(&gone).into_iter().chain(container::forget_sandboxes()) {
                match copy {
                    Copy::Removed(name, bytes) => removed.push((format!("the engine's copy {name}"), bytes)),
                    Copy::Stays(name, why) => output::story(&format!("the engine's copy {name} stays: {why}")),
                }
            }
            let qemu = host::qemu_version().await;
            match Templates::new(&home().cache).prune(&left, qemu.as_deref()) {
                0 => {}
                bytes => removed.push(("templates that nobody can use any more".to_owned(), bytes)),
            }
            output::pruned(&removed);
            Ok(0)
        }
    }
}

async fn build(store: Store, names: Vec<String>, refresh: bool, mirror: Option<String>) -> Ended {
    let here =
        std::env::current_dir().map_err(|error| Failure::unknown("cannot find the working directory", &error))?;
    let catalog = Catalog::near(&[&here]);
    let names = if names.is_empty() { catalog.names() } else { names };
    if names.is_empty() {
        return Err(Failure::usage("no images: there is no directory `images` here or above"));
    }
    let progress = Arc::new(|text: &str| output::story(&format!("  {text}")));
    let builder = ImageBuilder { store, program: program()?, mirror, progress };
    let recipes = names.iter().map(|name| catalog.get(name)).collect::<Result<Vec<_>, CatalogError>>()?;
    for recipe in recipes {
        output::story(&format!("{}:", recipe.name));
        let image = tokio::select! {
            image = builder.image(&recipe, refresh) => image.map_err(failed)?,
            // The guard ends the build; `image prune` and the next build remove what it left.
            _ = tokio::signal::ctrl_c() => return Err(Failure::plain("interrupted")),
        };
        output::images(std::slice::from_ref(&image));
    }
    Ok(0)
}

fn failed(error: BuildError) -> Failure {
    match error {
        BuildError::Shortage(shortage) => Failure::with_mend(&shortage.to_string(), &shortage.mend()),
        error => Failure::unknown("the image was not built", &error),
    }
}
