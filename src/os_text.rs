//! Paths and their like in JSON: as text where they are UTF-8, as almost all are, and as an array of bytes where they are not.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Text<'a> {
    Utf8(Cow<'a, str>),
    Bytes(Cow<'a, [u8]>),
}

impl Text<'_> {
    fn into_os_string(self) -> OsString {
        match self {
            Self::Utf8(text) => text.into_owned().into(),
            Self::Bytes(bytes) => OsString::from_vec(bytes.into_owned()),
        }
    }
}

/// For `#[serde(with = …)]`.
pub fn serialize<S: Serializer>(value: &impl AsRef<OsStr>, serializer: S) -> Result<S::Ok, S::Error> {
    let value = value.as_ref();
    match value.to_str() {
        Some(text) => Text::Utf8(text.into()),
        None => Text::Bytes(value.as_bytes().into()),
    }
    .serialize(serializer)
}

/// For `#[serde(with = …)]`.
pub fn deserialize<'de, D: Deserializer<'de>, T: From<OsString>>(deserializer: D) -> Result<T, D::Error> {
    Text::deserialize(deserializer).map(Text::into_os_string).map(T::from)
}

/// The same for what may be missing.
pub mod optional {
    use super::*;

    /// For `#[serde(with = …)]`.
    pub fn serialize<S: Serializer>(value: &Option<impl AsRef<OsStr>>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => super::serialize(value, serializer),
            None => serializer.serialize_none(),
        }
    }

    /// For `#[serde(with = …)]`.
    pub fn deserialize<'de, D: Deserializer<'de>, T: From<OsString>>(deserializer: D) -> Result<Option<T>, D::Error> {
        Ok(Option::<Text>::deserialize(deserializer)?.map(Text::into_os_string).map(T::from))
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Example {
        #[serde(with = "super")]
        path: PathBuf,
        #[serde(with = "super::optional")]
        other: Option<OsString>,
    }

    #[test]
    fn text_stays_text_and_other_bytes_are_kept() {
        let path = PathBuf::from("/tmp/\u{fc}");
        let example = Example { path: path.clone(), other: None };
        assert_eq!(serde_json::to_string(&example).unwrap(), "{\"path\":\"/tmp/\u{fc}\",\"other\":null}");
        let other = Some(OsString::from_vec(b"\xfc\n".into()));
        let example = Example { path: OsString::from_vec(b"/\xff".into()).into(), other };
        let text = serde_json::to_string(&example).unwrap();
        assert_eq!(serde_json::from_str::<Example>(&text).unwrap(), example);
    }
}
