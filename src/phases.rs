//! The phases of a build by stdenv, in the order in which stdenv's `genericBuild` runs them.

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::failed_build::FailedBuild;

/// The phases of stdenv, and between them the variables that name more, where a package or a setup hook wants some.
const ORDER: [Entry; 16] = [
    Entry::More("prePhases"),
    Entry::Phase("unpackPhase", Switch::Off("dontUnpack")),
    Entry::Phase("patchPhase", Switch::Off("dontPatch")),
    Entry::More("preConfigurePhases"),
    Entry::Phase("configurePhase", Switch::Off("dontConfigure")),
    Entry::More("preBuildPhases"),
    Entry::Phase("buildPhase", Switch::Off("dontBuild")),
    Entry::Phase("checkPhase", Switch::On("doCheck")),
    Entry::More("preInstallPhases"),
    Entry::Phase("installPhase", Switch::Off("dontInstall")),
    Entry::More("preFixupPhases"),
    Entry::Phase("fixupPhase", Switch::Off("dontFixup")),
    Entry::Phase("installCheckPhase", Switch::On("doInstallCheck")),
    Entry::More("preDistPhases"),
    Entry::Phase("distPhase", Switch::On("doDist")),
    Entry::More("postPhases"),
];

enum Entry {
    Phase(&'static str, Switch),
    More(&'static str),
}

/// A variable that has a phase left out when it is set, or run only then.
enum Switch {
    Off(&'static str),
    On(&'static str),
}

/// The phases that stdenv knows by itself, those included that a package has to ask for.
pub fn standard() -> impl Iterator<Item = &'static str> {
    ORDER.iter().filter_map(|entry| match entry {
        Entry::Phase(phase, _) => Some(*phase),
        Entry::More(_) => None,
    })
}

/// What a builder does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// These phases, as far as the attributes tell. A setup hook may add others, which the log names once they are begun.
    Phases(Vec<String>),
    /// stdenv, but only its `buildCommand`.
    BuildCommand,
    /// Something else than stdenv.
    NoStdenv,
}

impl Work {
    /// What the builder of `build` does, by the variables that it had when the last phase began, or else by its attributes.
    pub fn of(build: &FailedBuild) -> Self {
        let kept = build.kept.as_ref().filter(|kept| kept.env_vars.is_ok());
        let derivation = build.derivation.as_ref();
        let structured = match derivation {
            Some(derivation) => derivation.structured_attributes().map(Cow::Borrowed),
            None => kept.and_then(|kept| kept.structured_attributes()).map(Cow::Owned),
        };
        Self::by(&|name| {
            let exported = kept.and_then(|kept| kept.variable(name)).map(text);
            match (exported, &structured) {
                (Some(value), _) => Some(value),
                (None, Some(attributes)) => attribute(attributes, name),
                // What is not exported any more was unset.
                (None, None) if kept.is_some() => None,
                (None, None) => derivation.and_then(|derivation| derivation.variable(name)).map(text),
            }
        })
    }

    fn by(variable: &dyn Fn(&str) -> Option<String>) -> Self {
        let is_set = |name: &str| variable(name).is_some_and(|value| !value.is_empty());
        let words = |name: &str| -> Vec<String> {
            variable(name).unwrap_or_default().split_whitespace().map(String::from).collect()
        };
        if !is_set("stdenv") {
            return Self::NoStdenv;
        }
        if is_set("buildCommand") || is_set("buildCommandPath") {
            return Self::BuildCommand;
        }
        let mut phases = words("phases");
        if phases.is_empty() {
            phases = ORDER
                .iter()
                .flat_map(|entry| match entry {
                    Entry::Phase(name, _) => vec![(*name).to_owned()],
                    Entry::More(name) => words(name),
                })
                .collect();
        }
        // A phase is left out wherever it stands.
        phases.retain(|phase| {
            ORDER.iter().all(|entry| match entry {
                Entry::Phase(name, Switch::Off(switch)) if phase == name => !is_set(switch),
                Entry::Phase(name, Switch::On(switch)) if phase == name => is_set(switch),
                _ => true,
            })
        });
        Self::Phases(phases)
    }
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

/// A structured attribute as the words that bash has of it: see [`shell_text`](crate::nix::builder_environment).
fn attribute(attributes: &Map<String, Value>, name: &str) -> Option<String> {
    fn word(value: &Value) -> String {
        match value {
            Value::String(string) => string.clone(),
            Value::Bool(true) => "1".into(),
            Value::Number(number) => number.to_string(),
            Value::Array(values) => values.iter().map(word).collect::<Vec<_>>().join(" "),
            Value::Bool(false) | Value::Null | Value::Object(_) => String::new(),
        }
    }
    attributes.get(name).map(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phases(variables: &[(&str, &str)]) -> String {
        let variable = |name: &str| {
            let mut all = variables.iter().chain(&[("stdenv", "/s")]);
            all.find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        match Work::by(&variable) {
            Work::Phases(phases) => phases.join(" "),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn without_more_it_is_the_usual_six() {
        let usual = "unpackPhase patchPhase configurePhase buildPhase installPhase fixupPhase";
        assert_eq!(phases(&[]), usual);
        assert_eq!(phases(&[("phases", " "), ("doCheck", ""), ("dontBuild", "")]), usual);
    }

    #[test]
    fn each_variable_adds_its_phases_at_its_place() {
        let more: Vec<_> = [
            ("prePhases", "a b"),
            ("preConfigurePhases", "c"),
            ("preBuildPhases", "d"),
            ("preInstallPhases", "e"),
            ("preFixupPhases", "f"),
            ("preDistPhases", "g"),
            ("postPhases", "h\ti"),
            ("doCheck", "1"),
            ("doInstallCheck", "1"),
            ("doDist", "0"),
        ]
        .into();
        assert_eq!(
            phases(&more),
            "a b unpackPhase patchPhase c configurePhase d buildPhase checkPhase e installPhase f fixupPhase \
             installCheckPhase g distPhase h i"
        );
    }

    #[test]
    fn switches_hold_for_phases_that_a_package_names_itself() {
        let list = ("phases", "unpackPhase checkPhase myPhase distPhase installPhase");
        assert_eq!(phases(&[list]), "unpackPhase myPhase installPhase");
        assert_eq!(phases(&[list, ("doCheck", "1"), ("dontUnpack", "1"), ("dontInstall", "1")]), "checkPhase myPhase");
        for switch in ["dontUnpack", "dontPatch", "dontConfigure", "dontBuild", "dontInstall", "dontFixup"] {
            assert_eq!(phases(&[(switch, "1")]).split(' ').count(), 5, "{switch}");
        }
    }

    #[test]
    fn not_every_builder_has_phases() {
        assert_eq!(phases(&[("stdenv", "")]), "NoStdenv");
        assert_eq!(phases(&[("buildCommand", "make")]), "BuildCommand");
        assert_eq!(phases(&[("buildCommandPath", "/build/.attr-x")]), "BuildCommand");
    }

    #[test]
    fn structured_attributes_are_what_bash_has_of_them() {
        let json = r#"{"phases":["a","b c"],"doCheck":true,"doDist":false,"n":null,"one":1,"set":{"x":"y"}}"#;
        let attributes = serde_json::from_str(json).unwrap();
        let value = |name| attribute(&attributes, name);
        assert_eq!(value("phases").unwrap(), "a b c");
        assert_eq!(value("doCheck").unwrap(), "1");
        assert_eq!(value("one").unwrap(), "1");
        for name in ["doDist", "n", "set"] {
            assert_eq!(value(name).unwrap(), "", "{name}");
        }
        assert_eq!(value("missing"), None);
    }
}
