//! File names as text: Linux allows any bytes, JSON does not.

/// A file name as text that no other file name shares: bytes that are no UTF-8, control characters and the backslash
/// become `\xNN`.
pub fn escape(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character == '\\' || character.is_control() {
                let mut bytes = [0; 4];
                character.encode_utf8(&mut bytes).bytes().for_each(|byte| text.push_str(&hex(byte)));
            } else {
                text.push(character);
            }
        }
        chunk.invalid().iter().for_each(|byte| text.push_str(&hex(*byte)));
    }
    text
}

fn hex(byte: u8) -> String {
    format!("\\x{byte:02x}")
}

#[cfg(test)]
mod tests {
    use super::escape;

    #[test]
    fn every_name_keeps_its_own_text() {
        assert_eq!(escape(b"/etc/motd"), "/etc/motd");
        assert_eq!(escape("/srv/Bücher".as_bytes()), "/srv/Bücher");
        assert_eq!(escape(b"/a\xff"), "/a\\xff");
        assert_eq!(escape(b"/a\\xff"), "/a\\x5cxff", "must differ from the name above");
        assert_eq!(escape(b"/a\nb"), "/a\\x0ab");
    }
}
