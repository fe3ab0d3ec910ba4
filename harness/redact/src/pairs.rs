//! `name = value` in a line, in the ways of shells, INI files, YAML, and connection strings.

use std::sync::LazyLock;

use regex::Regex;

/// A name and what it is set to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) name: String,
    /// Every reading of the value: in quotes or not, with what may be a comment and without.
    pub(crate) values: Vec<String>,
}

static PAIR: LazyLock<Regex> = LazyLock::new(|| {
    let form = r#"^\s*(?:(?:export|set|setenv|declare\s+-x|local|-|\*)\s+)?["']?([A-Za-z_][\w.\-/ ]{0,80}?)["']?\s*(?:=>|:=|=|:)\s*(\S.*)$"#;
    Regex::new(form).expect("a constant")
});

/// The pair that a whole line is, and those of its statements.
pub(crate) fn of_line(line: &str) -> Vec<Pair> {
    let statements = statements(line);
    let mut pairs: Vec<Pair> = pair(line).into_iter().collect();
    if statements.len() > 1 {
        pairs.extend(statements.into_iter().filter_map(pair));
    }
    pairs
}

fn pair(text: &str) -> Option<Pair> {
    let found = PAIR.captures(text)?;
    let (name, value) = (found.get(1)?.as_str(), found.get(2)?.as_str());
    // `https://..` is no pair, and no value is lost: the line is taken whole.
    (!value.starts_with("//")).then(|| Pair { name: name.trim().to_owned(), values: readings(value) })
}

/// What a line holds between semicolons that stand in no quotes.
fn statements(line: &str) -> Vec<&str> {
    let (mut quote, mut from, mut found) = (None, 0, Vec::new());
    for (at, c) in line.char_indices() {
        match (quote, c) {
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), _) if open == c => quote = None,
            (None, ';') => {
                found.push(&line[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    found.push(&line[from..]);
    found
}

fn readings(value: &str) -> Vec<String> {
    let value = value.trim();
    let mut found = vec![value.to_owned(), value.trim_end_matches([',', ';']).trim_end().to_owned()];
    match value.chars().next() {
        Some(quote @ ('"' | '\'' | '`')) => found.extend(quoted(value, quote)),
        _ => {
            for comment in [" #", "\t#", " ;", "\t;", " //"] {
                found.extend(value.find(comment).map(|at| value[..at].trim_end().to_owned()));
            }
        }
    }
    // A tag of YAML, or a word before what is in quotes.
    found.extend(value.strip_prefix('!').and_then(|rest| rest.split_once(' ')).map(|(_, rest)| rest.trim().to_owned()));
    found.sort();
    found.dedup();
    found
}

/// What stands in quotes at the beginning: as written, and with its escapes undone.
fn quoted(text: &str, quote: char) -> Vec<String> {
    let mut escaped = false;
    let inner = &text[1..];
    let end = inner.char_indices().find(|(_, c)| {
        let ends = *c == quote && !escaped;
        escaped = *c == '\\' && !escaped && quote != '\'';
        ends
    });
    let written = &inner[..end.map_or(inner.len(), |(at, _)| at)];
    let mut found = vec![written.to_owned()];
    if written.contains('\\') {
        found.push(unescape(written));
    }
    if quote == '\'' && inner.contains("''") {
        found.push(inner.trim_end_matches('\'').replace("''", "'"));
    }
    found
}

/// Undoes the escapes of double quotes.
pub(crate) fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match (c, c == '\\') {
            (_, false) => plain.push(c),
            _ => match characters.next() {
                Some('n') => plain.push('\n'),
                Some('r') => plain.push('\r'),
                Some('t') => plain.push('\t'),
                Some(other) => plain.push(other),
                None => plain.push('\\'),
            },
        }
    }
    plain
}

/// Everything that stands in quotes in a line.
pub(crate) fn in_quotes(line: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = line;
    while let Some(at) = rest.find(['"', '\'']) {
        let quote = if rest[at..].starts_with('"') { '"' } else { '\'' };
        let inner = quoted(&rest[at..], quote);
        let skip = at + 1 + inner.first().map_or(0, String::len);
        // An apostrophe, and no quote.
        if skip >= rest.len() {
            rest = &rest[at + 1..];
            continue;
        }
        found.extend(inner);
        rest = &rest[skip + 1..];
    }
    found
}

/// Passwords of a URL or a connection string, as written and decoded.
pub(crate) fn of_connection(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("://") {
        let rest = text[at + 3..].split([' ', '"', '\'', '<', '>', '\t']).next().unwrap_or_default();
        // The last `@` before the path parts them: a password may hold one, and a `/` if its author was careless.
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let user = match (authority.rsplit_once('@'), rest.rsplit_once('@')) {
            (Some((user, _)), _) | (None, Some((user, _))) => user,
            (None, None) => "",
        };
        found.extend(user.split_once(':').map(|(_, password)| password).or(Some(user)).map(str::to_owned));
        let query = rest.split_once('?').map_or("", |(_, query)| query);
        let values = query.split(['&', ';']).filter_map(|part| part.split_once('='));
        found.extend(values.filter(|(name, _)| crate::words::is_secret_name(name)).map(|(_, value)| value.to_owned()));
    }
    let decoded =
        |text: &String| percent_encoding::percent_decode_str(text).decode_utf8().ok().map(|text| text.into_owned());
    let plain: Vec<String> = found.iter().filter(|text| text.contains('%')).filter_map(decoded).collect();
    found.extend(plain);
    found.retain(|text| !text.is_empty());
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn holds(line: &str, name: &str, value: &str) {
        let pairs = of_line(line);
        let found = pairs.iter().any(|pair| pair.name == name && pair.values.iter().any(|other| other == value));
        assert!(found, "{line}: {pairs:?}");
    }

    #[test]
    fn a_pair_is_read_in_the_ways_of_its_kinds() {
        holds("pw: yamlPW-Mm12cc # rotate in may", "pw", "yamlPW-Mm12cc");
        holds("export API_TOKEN=\"shPW-Tt66oo\"; export B=hunter22", "API_TOKEN", "shPW-Tt66oo");
        holds("export API_TOKEN=\"shPW-Tt66oo\"; export B=hunter22", "B", "hunter22");
        holds("A='it''s'", "A", "it's");
        holds("A=\"a\\\"b\\nc\"", "A", "a\"b\nc");
        holds("pw = abc;def", "pw", "abc;def");
        holds("pw = abcdef ; old one", "pw", "abcdef");
        holds("  \"db_password\": \"jsonPW\",", "db_password", "jsonPW");
        holds("'pw' => 'phpPW-1'", "pw", "phpPW-1");
        holds("pw: !vault hunter22", "pw", "hunter22");
        holds("Server=db;Password=adoPW-1;Timeout=5", "Password", "adoPW-1");
        assert_eq!(of_line("https://example.org/"), []);
    }

    #[test]
    fn connections_give_their_passwords() {
        assert_eq!(of_connection("postgres://app:dsnPW-Oo98ii@db/app"), ["dsnPW-Oo98ii"]);
        assert_eq!(of_connection("amqp://u:p%40ss%2Fword@h"), ["p%40ss%2Fword", "p@ss/word"]);
        assert_eq!(of_connection("redis://:only@h:1/0"), ["only"]);
        assert_eq!(of_connection("mysql://u:pa/ss@h/db"), ["pa/ss"]);
        assert_eq!(of_connection("https://ghp_token@github.com/x"), ["ghp_token"]);
        assert_eq!(of_connection("https://h/x?a=1&access_token=qwerty&b=2"), ["qwerty"]);
        assert!(of_connection("https://example.org/path").is_empty());
    }

    #[test]
    fn what_stands_in_quotes_is_found_wherever_it_stands() {
        assert_eq!(in_quotes("auth \"abc def\"; key 'ghi'"), ["abc def", "ghi"]);
        assert_eq!(in_quotes("it's \"q\""), ["q"]);
        assert!(in_quotes("don't").is_empty());
    }
}
