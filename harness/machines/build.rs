//! Builds the probe as a static program, so that `redrill` carries it and needs no second file.
//!
//! A cargo of its own with a target directory of its own: the outer build holds the lock of the shared one. The C
//! library is linked in (`crt-static`); the probe looks no names up, which is where a static glibc would bite.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn main() {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let harness = manifest.parent().expect("harness/").to_owned();
    for source in [
        "probe/src",
        "probe/Cargo.toml",
        "state/src",
        "state/Cargo.toml",
        "wire/src",
        "wire/Cargo.toml",
        "../Cargo.lock",
    ] {
        println!("cargo:rerun-if-changed={}", harness.join(source).display());
    }
    let target = format!("{}-unknown-linux-gnu", env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets it"));
    let directory = shared_directory(&out).join("probe");
    let status = Command::new(env::var_os("CARGO").expect("cargo sets it"))
        .args(["build", "--quiet", "--locked", "--profile", "probe", "--package", "redrill-probe", "--target", &target])
        .arg("--target-dir")
        .arg(&directory)
        .current_dir(&harness)
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("RUSTC_WRAPPER")
        .status()
        .expect("cargo runs");
    assert!(status.success(), "the probe does not build: cargo build --package redrill-probe says why");
    let built = directory.join(&target).join("probe/redrill-probe");
    let kept = out.join("redrill-probe");
    fs::copy(&built, &kept).expect("the probe was built");
    println!("cargo:rustc-env=REDRILL_PROBE={}", kept.display());
}

/// `target/`: debug, release and test builds share one probe.
fn shared_directory(out: &Path) -> PathBuf {
    out.ancestors().nth(4).map_or_else(|| out.to_owned(), Path::to_owned)
}
