//! A span of time as users write it: `90s`, `5m`, `1h30m`.
//! Which spans a field allows is left to its schema.

use std::fmt;
use std::str::FromStr;
use std::time;

use serde::{Deserialize, Serialize};

/// A span of whole seconds, written with hours, minutes and seconds. Written back in the shortest such form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Duration(u64);

impl Duration {
    /// A span of so many seconds.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs)
    }

    /// A span of so many minutes.
    pub const fn from_mins(mins: u64) -> Self {
        Self(mins * 60)
    }

    /// A span of so many hours.
    pub const fn from_hours(hours: u64) -> Self {
        Self(hours * 3600)
    }

    /// Its length in seconds.
    pub const fn as_secs(self) -> u64 {
        self.0
    }
}

impl From<Duration> for time::Duration {
    fn from(duration: Duration) -> Self {
        time::Duration::from_secs(duration.0)
    }
}

impl FromStr for Duration {
    type Err = String;

    /// Reads what Go's `time.ParseDuration` reads, if it is not negative; fractions of a second are dropped.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<kube::core::Duration>() {
            // The empty text would be read as zero.
            Ok(span) if !span.is_negative() && !text.is_empty() => {
                Ok(Self(time::Duration::from(span).as_secs()))
            }
            _ => Err(format!("{text:?} is not a duration: write for example 90s, 5m or 1h30m")),
        }
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (hours, minutes, seconds) = (self.0 / 3600, self.0 / 60 % 60, self.0 % 60);
        for (number, unit) in [(hours, "h"), (minutes, "m"), (seconds, "s")] {
            if number > 0 || (self.0 == 0 && unit == "s") {
                write!(f, "{number}{unit}")?;
            }
        }
        Ok(())
    }
}

impl TryFrom<String> for Duration {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Duration> for String {
    fn from(duration: Duration) -> Self {
        duration.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_read_and_written_in_its_shortest_form() {
        for (text, secs, written) in [
            ("0s", 0, "0s"),
            ("90s", 90, "1m30s"),
            ("60m", 3600, "1h"),
            ("1h", 3600, "1h"),
            ("1h0m5s", 3605, "1h5s"),
            ("720h", 2_592_000, "720h"),
        ] {
            let duration: Duration = text.parse().unwrap();
            assert_eq!((duration.as_secs(), duration.to_string().as_str()), (secs, written), "{text}");
            assert_eq!(serde_json::to_value(duration).unwrap(), written);
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_with_the_text() {
        for text in ["", "5", "1d", "-1h", "h"] {
            let error = serde_json::from_value::<Duration>(text.into()).unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?} is not a duration")), "{error}");
        }
    }
}
