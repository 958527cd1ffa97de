//! What Nix gives to the process that builds a derivation: its environment, its arguments, and the files it finds in `/build`.
//!
//! It follows the local builds of Nix 2.8 to 2.34, which differ in two details only; see [`BuilderSettings`].

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZero;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;

use anyhow::{Result, anyhow, bail};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::base_variables::BaseVariables;
use super::base32;
use super::derivation::Derivation;
use super::output_paths::{Placeholders, paths_in_build};
use super::references_graph::ReferencesGraphs;
use super::structured_attributes::{json_text, shell_text};

/// The mode of the files that Nix writes for the builder.
pub(super) const FILE_MODE: u32 = 0o644;

/// What the environment depends on besides the derivation.
pub struct BuilderSettings<'a> {
    /// The store, as the build sees it: `/nix/store`.
    pub store: &'a Path,
    /// The build directory, as the build sees it (`sandbox-build-dir`): `/build`.
    pub build_directory: &'a Path,
    /// Where `NIX_ATTRS_JSON_FILE` and `NIX_ATTRS_SH_FILE` point to: the build directory as the build sees it, and before Nix 2.15,
    /// by mistake, as it is called outside of the sandbox.
    pub attributes_directory: &'a Path,
    /// Nix's setting `cores`. 0 stands for as many as the machine has, as since Nix 2.30; before, the build was told 0.
    pub cores: usize,
    /// What `exportReferencesGraph` asks for.
    pub references_graphs: ReferencesGraphs,
    /// Looks a variable up in the environment that Nix itself had: `impureEnvVars` names those that are passed on.
    pub variable_of_nix: &'a dyn Fn(&[u8]) -> Option<Vec<u8>>,
}

/// What Nix gives to the process that builds a derivation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuilderEnvironment {
    /// The names and values of the variables, in Nix's order, which is that of the bytes of their names.
    pub variables: Vec<(Vec<u8>, Vec<u8>)>,
    /// All arguments, the first of which is the file name of the builder.
    pub arguments: Vec<Vec<u8>>,
    /// The files in the build directory at the start.
    pub files: Vec<BuildFile>,
    /// The path of each output during the build, by name. Those of an `__impure` derivation Nix draws at random at each build, so
    /// they differ.
    pub outputs: BTreeMap<Vec<u8>, PathBuf>,
}

/// A file that Nix writes into the build directory. It belongs to the build's user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildFile {
    /// Its name in the build directory.
    pub name: Vec<u8>,
    /// What is in it.
    pub content: Vec<u8>,
    /// Its permissions.
    pub mode: u32,
}

impl BuilderEnvironment {
    /// What the builder of `derivation` gets.
    ///
    /// # Errors
    /// A derivation that Nix does not start a process for, or would not: see each message.
    pub fn of(derivation: &Derivation, settings: &BuilderSettings) -> Result<Self> {
        if derivation.is_builtin() {
            bail!(
                "{} has no builder to look at: «{}» is a part of Nix",
                derivation.path.display(),
                derivation.builder.escape_ascii()
            );
        }
        let outputs = paths_in_build(derivation, settings.store)?;
        let placeholders = Placeholders::of(&outputs);
        let build_directory = settings.build_directory.as_os_str().as_bytes();
        let mut variables = Variables::default();
        let base = BaseVariables::of(settings.store, settings.build_directory);
        variables.set_all(base.defaults);
        variables.set("NIX_BUILD_CORES", cores(settings.cores).to_string());

        let mut files = match derivation.structured_attributes() {
            Some(attributes) => attribute_files(attributes, &outputs, settings, &mut variables),
            None => own_variables(derivation, build_directory, &mut variables),
        };
        for file in &mut files {
            file.content = placeholders.replaced_in(&file.content);
        }
        files.extend(settings.references_graphs.files.iter().cloned());

        variables.set_all(base.of_build_directory);
        if derivation.is_fixed_output() {
            variables.set("NIX_OUTPUT_CHECKED", "1");
        }
        if derivation.is_fixed_output() || derivation.is_impure() {
            for name in impure_variables(derivation)? {
                let value = (settings.variable_of_nix)(&name).unwrap_or_default();
                variables.set(name, value);
            }
        }
        variables.set_all(base.of_output);

        let variables = variables.0.into_iter().map(|(name, value)| {
            if name.contains(&0) || value.contains(&0) {
                bail!(
                    "{} has a NUL byte in the variable «{}», which no environment can hold",
                    derivation.path.display(),
                    name.escape_ascii()
                );
            }
            Ok((placeholders.replaced_in(&name), placeholders.replaced_in(&value)))
        });
        let own_name = derivation.builder.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let mut arguments = vec![own_name.to_vec()];
        arguments.extend(derivation.arguments.iter().map(|argument| placeholders.replaced_in(argument)));
        Ok(Self { variables: variables.collect::<Result<_>>()?, arguments, files, outputs })
    }
}

#[derive(Default)]
struct Variables(BTreeMap<Vec<u8>, Vec<u8>>);

impl Variables {
    fn set(&mut self, name: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.0.insert(name.into(), value.into());
    }

    fn set_all<'a>(&mut self, all: impl IntoIterator<Item = (&'a str, &'a [u8])>) {
        for (name, value) in all {
            self.set(name, value);
        }
    }
}

fn cores(setting: usize) -> usize {
    NonZero::new(setting).or_else(|| available_parallelism().ok()).map_or(1, NonZero::get)
}

/// The variables of the derivation; of those that `passAsFile` names, the value goes to a file, and `NAMEPath` says to which.
fn own_variables(derivation: &Derivation, build_directory: &[u8], variables: &mut Variables) -> Vec<BuildFile> {
    let passed_as_file: BTreeSet<_> = words(derivation.variable("passAsFile").unwrap_or_default()).collect();
    let mut files = Vec::new();
    for (name, value) in &derivation.environment {
        if passed_as_file.contains(name.as_slice()) {
            let file_name = format!(".attr-{}", base32::encode(&Sha256::digest(name))).into_bytes();
            variables.set([name, &b"Path"[..]].concat(), [build_directory, b"/", &file_name].concat());
            files.push(BuildFile { name: file_name, content: value.clone(), mode: FILE_MODE });
        } else {
            variables.set(name.clone(), value.clone());
        }
    }
    files
}

/// The two files that hold structured attributes. `outputs`, which lists names in the derivation, tells the paths here.
fn attribute_files(
    attributes: &Map<String, Value>,
    outputs: &BTreeMap<Vec<u8>, PathBuf>,
    settings: &BuilderSettings,
    variables: &mut Variables,
) -> Vec<BuildFile> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let paths = outputs.iter().map(|(name, path)| (text(name), text(path.as_os_str().as_bytes()).into()));
    let mut attributes = attributes.clone();
    attributes.insert("outputs".into(), Value::Object(paths.collect()));
    attributes.extend(settings.references_graphs.attributes.clone());
    let directory = settings.attributes_directory;
    let files = [
        ("NIX_ATTRS_JSON_FILE", ".attrs.json", json_text(&attributes)),
        ("NIX_ATTRS_SH_FILE", ".attrs.sh", shell_text(&attributes)),
    ];
    let file = |(variable, name, content)| {
        variables.set(variable, directory.join(name).into_os_string().into_encoded_bytes());
        BuildFile { name: String::from(name).into_bytes(), content, mode: FILE_MODE }
    };
    files.map(file).into()
}

/// The variables that `impureEnvVars` names.
fn impure_variables(derivation: &Derivation) -> Result<Vec<Vec<u8>>> {
    const NAMES: &str = "impureEnvVars";
    let Some(attributes) = derivation.structured_attributes() else {
        return Ok(words(derivation.variable(NAMES).unwrap_or_default()).map(<[u8]>::to_vec).collect());
    };
    let name = |value: &Value| value.as_str().map(|name| name.as_bytes().to_vec());
    let names = match attributes.get(NAMES) {
        None => Some(Vec::new()),
        Some(value) => value.as_array().and_then(|values| values.iter().map(name).collect()),
    };
    names.ok_or_else(|| anyhow!("{} has an {NAMES} that is no list of strings", derivation.path.display()))
}

/// Splits at white space as Nix does.
pub(super) fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| b" \t\n\r".contains(byte)).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// What the real Nix did: a derivation, and what its builder was given.
    struct Recording {
        directory: PathBuf,
        derivation: Derivation,
    }

    impl Recording {
        fn of(name: &str) -> Self {
            let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/builder_environment").join(name);
            let path = fs::read_dir(&directory)
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .find(|path| path.extension() == Some("drv".as_ref()))
                .unwrap();
            let derivation =
                Derivation::parse(&Path::new("/nix/store").join(path.file_name().unwrap()), &fs::read(&path).unwrap());
            Self { directory, derivation: derivation.unwrap() }
        }

        fn computed(&self, references_graphs: ReferencesGraphs) -> BuilderEnvironment {
            // Nix 2.8.0 recorded them.
            let kept = format!("/tmp/recorded-builds/nix-build-{}.drv-0", self.derivation.name().escape_ascii());
            let settings = BuilderSettings { attributes_directory: kept.as_ref(), references_graphs, ..settings() };
            BuilderEnvironment::of(&self.derivation, &settings).unwrap()
        }

        /// The strings in a recorded file, each of which ends with a NUL byte as in `/proc`.
        fn strings(&self, file: &str) -> Vec<Vec<u8>> {
            let text = fs::read(self.directory.join(file)).unwrap();
            text.strip_suffix(b"\0").unwrap().split(|byte| *byte == 0).map(<[u8]>::to_vec).collect()
        }

        fn agrees_with(&self, environment: &BuilderEnvironment) {
            let lines = |strings: &[Vec<u8>]| {
                strings.iter().map(|string| string.escape_ascii().to_string()).collect::<Vec<_>>().join("\n")
            };
            let variables = environment.variables.iter().map(|(name, value)| [name, &b"="[..], value].concat());
            assert_eq!(lines(&variables.collect::<Vec<_>>()), lines(&self.strings("environ")));
            assert_eq!(lines(&environment.arguments), lines(&self.strings("arguments")));
            let mut files = BTreeMap::new();
            for entry in fs::read_dir(&self.directory).unwrap() {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().as_bytes();
                if name.starts_with(b".attr") {
                    files.insert(name.escape_ascii().to_string(), fs::read(&path).unwrap().escape_ascii().to_string());
                }
            }
            let computed = environment.files.iter().map(|file| {
                assert_eq!(file.mode, 0o644);
                (file.name.escape_ascii().to_string(), file.content.escape_ascii().to_string())
            });
            assert_eq!(computed.collect::<BTreeMap<_, _>>(), files);
        }
    }

    fn settings() -> BuilderSettings<'static> {
        BuilderSettings {
            store: "/nix/store".as_ref(),
            build_directory: "/build".as_ref(),
            attributes_directory: "/build".as_ref(),
            cores: 3,
            references_graphs: ReferencesGraphs::default(),
            variable_of_nix: &|name| match name {
                b"http_proxy" => Some(b"http://proxy:3128".to_vec()),
                b"HOME" => Some(b"/home/somebody".to_vec()),
                b"TERM" => Some(b"vt100".to_vec()),
                _ => None,
            },
        }
    }

    fn derivation(environment: &str) -> Derivation {
        let text =
            format!(r#"Derive([("out","/nix/store/o","sha256","00")],[],[],"x86_64-linux","/b",[],[{environment}])"#);
        let path = "/nix/store/4givwlbr4gah9ibn89gly939cjg8q5q1-hello.drv";
        Derivation::parse(path.as_ref(), text.as_bytes()).unwrap()
    }

    fn refusal(environment: &str) -> String {
        BuilderEnvironment::of(&derivation(environment), &settings()).unwrap_err().to_string()
    }

    #[test]
    fn builders_get_what_nix_gave_them() {
        for name in
            ["plain", "files", "placeholders", "structured", "json-by-hand", "fixed", "fixed-structured", "floating"]
        {
            let recording = Recording::of(name);
            recording.agrees_with(&recording.computed(ReferencesGraphs::default()));
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn numbers_too_large_for_bash_are_those_of_this_processor() {
        let recording = Recording::of("too-large-for-bash");
        recording.agrees_with(&recording.computed(ReferencesGraphs::default()));
    }

    #[test]
    fn impure_builds_differ_in_the_path_that_nix_drew() {
        let recording = Recording::of("impure");
        let mut environment = recording.computed(ReferencesGraphs::default());
        let made_up = environment.outputs[&b"out"[..]].as_os_str().as_bytes().to_vec();
        let variables = recording.strings("environ");
        let drawn = variables.iter().find_map(|variable| variable.strip_prefix(b"out=")).unwrap();
        assert_eq!(drawn.len(), made_up.len());
        let values = environment.variables.iter_mut().map(|(_, value)| value);
        for value in values.chain(&mut environment.arguments).filter(|value| **value == made_up) {
            *value = drawn.to_vec();
        }
        recording.agrees_with(&environment);
    }

    #[test]
    fn references_graphs_become_attributes() {
        let recording = Recording::of("graph-structured");
        let json = fs::read(recording.directory.join(".attrs.json")).unwrap();
        let attributes: Map<String, Value> = serde_json::from_slice(&json).unwrap();
        let attributes = attributes.into_iter().filter(|(name, _)| name == "closure").collect();
        recording.agrees_with(&recording.computed(ReferencesGraphs { attributes, files: Vec::new() }));
    }

    #[test]
    fn references_graphs_are_files_besides_the_others() {
        let graph = BuildFile { name: b"graph".to_vec(), content: b"/nix/store/x".to_vec(), mode: FILE_MODE };
        let references_graphs = ReferencesGraphs { files: vec![graph.clone()], ..ReferencesGraphs::default() };
        let derivation = derivation(r#"("passAsFile","a"),("a","b")"#);
        let environment =
            BuilderEnvironment::of(&derivation, &BuilderSettings { references_graphs, ..settings() }).unwrap();
        assert_eq!((environment.files.len(), environment.files.last()), (2, Some(&graph)));
    }

    #[test]
    fn without_a_number_of_cores_the_machine_gives_it() {
        let environment = BuilderEnvironment::of(&derivation(""), &BuilderSettings { cores: 0, ..settings() }).unwrap();
        let (_, cores) = environment.variables.iter().find(|(name, _)| name == b"NIX_BUILD_CORES").unwrap();
        assert_eq!(cores, available_parallelism().unwrap().to_string().as_bytes());
    }

    #[test]
    fn what_nix_starts_no_process_for_is_refused_in_words() {
        let text = br#"Derive([("out","/nix/store/o","","")],[],[],"builtin","builtin:fetchurl",[],[])"#;
        let builtin = Derivation::parse(&derivation("").path, text).unwrap();
        assert!(BuilderEnvironment::of(&builtin, &settings()).unwrap_err().to_string().contains("a part of Nix"));
        assert!(refusal("(\"a\",\"\0\")").contains("a NUL byte in the variable «a»"));
        assert!(refusal(r#"("__json","{\"impureEnvVars\":[1]}")"#).contains("no list of strings"));
    }
}
