//! Texts of files that the harness asks for.

use std::io::{self, Read, Write};

/// Reads a JSON list of paths, writes a line `{"path": ..., "text": ...}` for each that is text. What is gone, or no
/// text, is left out.
pub(crate) fn write(mut list: impl Read, mut out: impl Write) -> io::Result<()> {
    let mut text = Vec::new();
    list.read_to_end(&mut text)?;
    let paths: Vec<String> = serde_json::from_slice(&text)?;
    for path in paths {
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        if !text.contains('\0') {
            serde_json::to_writer(&mut out, &serde_json::json!({ "path": path, "text": text }))?;
            out.write_all(b"\n")?;
        }
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_back_and_the_rest_is_left_out() {
        let dir = std::env::temp_dir().join(format!("redrill-contents-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("made");
        let file = |name: &str, content: &[u8]| {
            let path = dir.join(name);
            std::fs::write(&path, content).expect("written");
            path.display().to_string()
        };
        let paths = [file("a", b"one\ntwo\n"), file("b", b"\xff\xfe"), file("c", b"a\0b"), "/nonexistent".to_owned()];
        let mut out = Vec::new();
        write(serde_json::to_vec(&paths).expect("text").as_slice(), &mut out).expect("written");
        let text = String::from_utf8(out).expect("text");
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains(r#""text":"one\ntwo\n""#), "{text}");
        std::fs::remove_dir_all(&dir).expect("cleaned up");
    }
}
