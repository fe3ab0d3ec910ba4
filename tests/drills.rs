//! The shipped scenarios as tests: what a user writes for their own.

fn main() -> std::process::ExitCode {
    // It is there to fail: `scenarios.rs` looks at how.
    redrill_suite::Suite::new(redrill_tests::root().join("scenarios"))
        .except("web-broken")
        .program(redrill_tests::program())
        .main()
}
