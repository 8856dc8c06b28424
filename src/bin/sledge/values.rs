//! Values as people write them, in flags, variables and files alike.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A time span, such as 24h or 7days.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Time(pub(crate) Duration);

/// A number of bytes, such as 20GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Size(pub(crate) u64);

/// A number of bytes a second, refused where no store could be read in a lifetime: it would be a slip of the unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Rate(pub(crate) u64);

impl FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        humantime::parse_duration(text)
            .map(Self)
            .map_err(|error| format!("{error}: a time is a number with a unit, such as 90s, 24h or 7days"))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_size::parse_size(text)
            .map(Self)
            .map_err(|error| format!("{error}: a size is a number with a unit, such as 32MiB"))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const LEAST: u64 = 64 << 10;
        match text.parse()? {
            Size(rate) if rate < LEAST => {
                Err(format!("{rate} bytes a second are too few: at least 64KiB, such as 32MiB"))
            }
            Size(rate) => Ok(Self(rate)),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What serde is to read and write as it is parsed and displayed.
macro_rules! as_text {
    ($($value:ty),*) => { $(
        impl TryFrom<String> for $value {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                text.parse()
            }
        }

        impl From<$value> for String {
            fn from(value: $value) -> Self {
                value.to_string()
            }
        }
    )* };
}

as_text!(Time, Size, Rate);

pub(crate) use as_text;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_they_are_written() {
        for text in ["0s", "90s", "1h 30m", "30days"] {
            let time: Time = text.parse().unwrap();
            assert_eq!(time.to_string().parse::<Time>().unwrap(), time);
        }
        for (text, bytes) in [("64MiB", 64 << 20), ("1 GB", 1_000_000_000), ("7", 7)] {
            let size: Size = text.parse().unwrap();
            assert_eq!(size, Size(bytes));
            assert_eq!(size.to_string().parse::<Size>().unwrap(), size);
        }
        assert!("32".parse::<Rate>().unwrap_err().contains("at least 64KiB"));
        assert_eq!("64KiB".parse::<Rate>().unwrap(), Rate(64 << 10));
        assert!("soon".parse::<Time>().unwrap_err().contains("such as 90s"));
        assert!("much".parse::<Size>().unwrap_err().contains("such as 32MiB"));
    }
}
