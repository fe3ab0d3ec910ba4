//! Durations as people write them: `"90s"`, `"10m"`, `"1h 30m"`.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// Ten thousand years: a moment that far away can still be told, on the slowest host.
const LONGEST: Duration = Duration::from_secs(10_000 * 366 * 24 * 60 * 60);

/// A duration written with its unit; a bare number is refused, since nobody knows what it counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Limit(pub Duration);

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;
        impl Visitor<'_> for Written {
            type Value = Limit;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration with its unit, such as \"90s\", \"10m\" or \"2h\"")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Limit, E> {
                match humantime::parse_duration(text) {
                    Ok(duration) if duration > LONGEST => {
                        Err(E::custom(format!("`{text}` is longer than ten thousand years")))
                    }
                    Ok(duration) if !duration.is_zero() => Ok(Limit(duration)),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
                }
            }
        }
        deserializer.deserialize_any(Written)
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

impl JsonSchema for Limit {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "A duration with its unit, such as `90s`, `10m` or `1h 30m`.",
            "pattern": "^( *[0-9]+ *[a-zA-Z]+)+ *$",
        })
    }
}
