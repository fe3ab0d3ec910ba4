//! Reads two captures and compares them; prints seconds and memory as JSON. `ci/bench capture` runs it.

use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::time::Instant;

use flate2::read::GzDecoder;
use redrill_state::{Capture, Reader, diff};

fn main() -> Result<(), Box<dyn Error>> {
    let paths: Vec<String> = std::env::args().skip(1).collect();
    let [before, after] = paths.as_slice() else { return Err("usage: diff BEFORE.jsonl.gz AFTER.jsonl.gz".into()) };
    let began = Instant::now();
    let (before, after) = std::thread::scope(|scope| {
        let reading = scope.spawn(|| read(before).map_err(|error| error.to_string()));
        (reading.join().expect("reading does not panic"), read(after))
    });
    let (before, after) = (before?, after?);
    let read = began.elapsed().as_secs_f64();
    let began = Instant::now();
    let changes = diff(&before, &after).len();
    let compared = began.elapsed().as_secs_f64();
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()).unwrap_or("0");
    let peak = peak.parse::<f64>()? / 1024.0;
    let files = before.files.len();
    writeln!(
        std::io::stdout(),
        r#"{{"files": {files}, "changes": {changes}, "read_seconds": {read:.3}, "diff_seconds": {compared:.3}, "peak_mib": {peak:.1}}}"#
    )?;
    Ok(())
}

fn read(path: &str) -> Result<Capture, Box<dyn Error>> {
    let mut lines = BufReader::with_capacity(256 * 1024, GzDecoder::new(BufReader::new(File::open(path)?)));
    let (mut reader, mut line) = (Reader::default(), String::new());
    while lines.read_line(&mut line)? > 0 {
        reader.line(&line)?;
        line.clear();
    }
    Ok(reader.finish()?)
}
