//! Times how quickly a log is cleaned: `cargo run --release -p redrill-redact --example rate [MEBIBYTES [VALUES]]`.
//! Prints one JSON object. The log is made piece by piece, so that the peak of memory is the cleaner's.

use std::error::Error;
use std::io::Write;
use std::time::{Duration, Instant};

use redrill_redact::{MARK, Redactor, Stream, Style};

/// A linear congruential generator: the same bytes each time.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap_or_default() % limit
    }

    fn word(&mut self, letters: &[u8], length: usize) -> String {
        (0..length).map(|_| char::from(letters[self.below(letters.len())])).collect()
    }
}

const SECRET: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_+/=!";
const PLAIN: &[u8] = b"aaabcdeeeefghiiijklmnnnooopqrrrssstttuuvwxyz";

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<usize>());
    let mebibytes = arguments.next().transpose()?.unwrap_or(100);
    let count = arguments.next().transpose()?.unwrap_or(300);
    let mut random = Random(7);
    let secrets: Vec<String> =
        (0..count).map(|_| (8 + random.below(33), ())).map(|(n, ())| random_secret(n, count)).collect();
    let made = Instant::now();
    let redactor = secrets.iter().fold(Redactor::builder(), |builder, secret| builder.value(secret)).build()?;
    let made = made.elapsed();
    let log = log(&mut random, &secrets);
    let (took, marks) = clean(&redactor, &log, mebibytes);
    let rate = f64::from(u32::try_from(mebibytes)?) * 1.048_576 / took.as_secs_f64();
    let peak = peak().unwrap_or_default();
    let result = serde_json::json!({
        "megabytes_per_second": rate.round(), "peak_rss_mib": peak / 1024, "mebibytes": mebibytes, "values": redactor.values(),
        "forms": redactor.forms(), "marks": marks, "made_in_milliseconds": made.as_millis(),
    });
    writeln!(std::io::stdout(), "{result}")?;
    Ok(())
}

fn random_secret(length: usize, seed: usize) -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(1);
    Random(NEXT.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9) + seed as u64).word(SECRET, length)
}

/// A mebibyte of a log: one line in a hundred holds a secret.
fn log(random: &mut Random, secrets: &[String]) -> Vec<u8> {
    let mut log = String::new();
    while log.len() < 1 << 20 {
        log.push_str("2026-01-02T03:04:05.678Z [web.example.org] ");
        for _ in 0..8 {
            let length = 3 + random.below(9);
            log.push_str(&random.word(PLAIN, length));
            log.push(' ');
        }
        if random.below(100) == 0 {
            log.push_str(&secrets[random.below(secrets.len())]);
        }
        log.push('\n');
    }
    log.into_bytes()
}

fn clean(redactor: &Redactor, log: &[u8], times: usize) -> (Duration, usize) {
    let mut stream = Stream::new(redactor, Style::Mark);
    let (mut out, mut marks) = (Vec::new(), 0);
    let mut took = Duration::ZERO;
    for _ in 0..times {
        for piece in log.chunks(64 * 1024) {
            let began = Instant::now();
            stream.push(piece, &mut out);
            took += began.elapsed();
            marks += memchr::memmem::find_iter(&out, MARK).count();
            out.clear();
        }
    }
    stream.flush(&mut out);
    (took, marks + memchr::memmem::find_iter(&out, MARK).count())
}

/// The most memory that this process had, in KiB.
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.split_whitespace().next()?.parse().ok()
}
