//! What `exportReferencesGraph` asks for: the closures of store paths, described to the builder.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Map, Value, json};

use super::base32;
use super::builder_environment::{BuildFile, FILE_MODE, words};
use super::derivation::Derivation;
use super::store::Store;
use super::store_records::{PathInfo, StoreRecords};

/// The name of the attribute.
const REQUEST: &str = "exportReferencesGraph";

/// Closures as a builder finds them described.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReferencesGraphs {
    /// Files in the build directory, in the form that `nix-store --register-validity` reads. With a multi-user Nix they belong to
    /// root.
    pub files: Vec<BuildFile>,
    /// With structured attributes, lists of path infos by the name of the attribute that Nix adds.
    pub attributes: Map<String, Value>,
}

impl ReferencesGraphs {
    /// What `derivation` asks for, of `store`, whose records are not opened where it asks for nothing.
    ///
    /// Among the path infos, `valid` is there as under Nix 2.18 and later; Nix 2.8 has none.
    ///
    /// # Errors
    /// A request that Nix does not understand either; paths that are not in the store any more, or records that cannot be read.
    pub fn requested_by(derivation: &Derivation, store: &Store) -> Result<Self> {
        let requests = requests(derivation)?;
        if requests.is_empty() {
            return Ok(Self::default());
        }
        let unknown = || format!("what {} asks for with {REQUEST} is not known", derivation.path.display());
        let mut records = store.open().with_context(unknown)?;
        let mut graphs = Self::default();
        for (name, paths) in requests {
            let paths = paths.iter().map(|path| store_path_of(path, derivation, store)).collect::<Result<Vec<_>>>()?;
            let infos = described(&paths, &mut records).with_context(unknown)?;
            if derivation.has_structured_attributes() {
                graphs.attributes.insert(String::from_utf8_lossy(&name).into_owned(), path_infos(&infos));
            } else {
                graphs.files.push(BuildFile { name, content: registration(&infos), mode: FILE_MODE });
            }
        }
        Ok(graphs)
    }
}

/// The requested paths by the name of the file in the build directory, or with structured attributes by that of the attribute.
fn requests(derivation: &Derivation) -> Result<BTreeMap<Vec<u8>, Vec<Vec<u8>>>> {
    let refusal = || anyhow!("{} has an {REQUEST} that is no list of names and paths", derivation.path.display());
    let Some(attributes) = derivation.structured_attributes() else {
        let words: Vec<_> = words(derivation.variable(REQUEST).unwrap_or_default()).collect();
        let (pairs, rest) = words.as_chunks();
        if !rest.is_empty() {
            return Err(refusal());
        }
        if let Some([name, _]) = pairs.iter().find(|[name, _]| !is_file_name(name)) {
            bail!(
                "{} wants a file «{}» of {REQUEST}, and Nix takes no such name",
                derivation.path.display(),
                name.escape_ascii()
            );
        }
        return Ok(pairs.iter().map(|[name, path]| (name.to_vec(), vec![path.to_vec()])).collect());
    };
    let Some(Value::Object(graphs)) = attributes.get(REQUEST) else {
        return Ok(BTreeMap::new());
    };
    let graph = |(name, paths): (&String, &Value)| {
        let mut found = Vec::new();
        let mut left = vec![paths];
        while let Some(value) = left.pop() {
            match value {
                Value::String(path) => found.push(path.clone().into_bytes()),
                Value::Array(values) => left.extend(values.iter().rev()),
                _ => return Err(refusal()),
            }
        }
        Ok((name.clone().into_bytes(), found))
    };
    graphs.iter().map(graph).collect()
}

/// A letter or an underscore, then letters, digits and `_`, `.`, `-`: it leads to no other directory.
fn is_file_name(name: &[u8]) -> bool {
    let is_first = |byte: &u8| byte.is_ascii_alphabetic() || *byte == b'_';
    name.first().is_some_and(is_first) && name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(byte))
}

/// The store path that `path` is, or is in.
fn store_path_of(path: &[u8], derivation: &Derivation, store: &Store) -> Result<PathBuf> {
    let below = Path::new(OsStr::from_bytes(path)).strip_prefix(store.directory()).ok();
    let store_path = below.and_then(|below| Some(store.directory().join(below.iter().next()?)));
    store_path.filter(|path| store.is_store_path(path)).with_context(|| {
        format!(
            "{} has «{}» in {REQUEST}, which is no path in {}",
            derivation.path.display(),
            path.escape_ascii(),
            store.directory().display()
        )
    })
}

/// The closure of `paths`, and where derivations are in it, that of their outputs too: what it takes to build something from its
/// sources is asked for in this way.
fn described(paths: &[PathBuf], records: &mut StoreRecords) -> Result<Vec<PathInfo>> {
    let mut closure = records.closure(paths)?;
    let mut roots = paths.to_vec();
    for derivation in closure.iter().filter(|path| path.extension() == Some("drv".as_ref())) {
        roots.extend(records.output_paths_of(derivation)?.into_iter().map(|output| output.path));
    }
    if roots.len() > paths.len() {
        closure = records.closure(&roots)?;
    }
    records.path_infos(&closure)
}

/// For each path, a line each: the path, nothing for what made it, how many references it has, and these.
fn registration(infos: &[PathInfo]) -> Vec<u8> {
    let mut text = Vec::new();
    let mut line = |of: &[u8]| text.extend([of, b"\n"].concat());
    for info in infos {
        line(info.path.as_os_str().as_bytes());
        line(b"");
        line(info.references.len().to_string().as_bytes());
        for reference in &info.references {
            line(reference.as_os_str().as_bytes());
        }
    }
    text
}

fn path_infos(infos: &[PathInfo]) -> Value {
    let text = |path: &PathBuf| path.to_string_lossy().into_owned();
    let sizes = closure_sizes(infos);
    let describe = |(info, closure_size): (&PathInfo, u64)| {
        let mut described = json!({
            "path": text(&info.path),
            "valid": true,
            "narHash": format!("sha256:{}", base32::encode(&info.nar_hash)),
            "narSize": info.nar_size,
            "references": info.references.iter().map(text).collect::<Vec<_>>(),
            "closureSize": closure_size,
        });
        if let Some(content_address) = &info.content_address {
            described["ca"] = content_address.as_str().into();
        }
        described
    };
    infos.iter().zip(sizes).map(describe).collect()
}

/// How many bytes the archives of each path's closure have together. `infos` are sorted, and all that they refer to is among them.
fn closure_sizes(infos: &[PathInfo]) -> Vec<u64> {
    let index_of = |path: &PathBuf| infos.binary_search_by(|info| info.path.as_os_str().cmp(path.as_os_str())).ok();
    let references: Vec<Vec<usize>> =
        infos.iter().map(|info| info.references.iter().filter_map(index_of).collect()).collect();
    // Of which root each path was last seen.
    let mut seen_from = vec![usize::MAX; infos.len()];
    let size_from = |root: usize| {
        let mut size: u64 = 0;
        let mut left = vec![root];
        seen_from[root] = root;
        while let Some(index) = left.pop() {
            size += infos[index].nar_size;
            for &reference in &references[index] {
                if seen_from[reference] != root {
                    seen_from[reference] = root;
                    left.push(reference);
                }
            }
        }
        size
    };
    (0..infos.len()).map(size_from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn derivation(environment: &str) -> Derivation {
        let text = format!(r#"Derive([],[],[],"x86_64-linux","/b",[],[{environment}])"#);
        Derivation::parse("/nix/store/4givwlbr4gah9ibn89gly939cjg8q5q1-hello.drv".as_ref(), text.as_bytes()).unwrap()
    }

    fn requested(value: &str) -> Result<BTreeMap<Vec<u8>, Vec<Vec<u8>>>> {
        requests(&derivation(&format!(r#"("exportReferencesGraph","{value}")"#)))
    }

    fn info(name: &str, nar_size: u64, references: &[&str]) -> PathInfo {
        let path = |name: &&str| PathBuf::from(format!("/nix/store/{name}"));
        let references = references.iter().map(path).collect();
        PathInfo { path: path(&name), nar_hash: [0; 32], nar_size, references, content_address: None }
    }

    #[test]
    fn files_are_asked_for_in_pairs() {
        let graphs = [("a", "/x"), ("b", "/y")].map(|(name, path)| (name.into(), vec![path.into()]));
        assert_eq!(requested(" a /x\\nb /y").unwrap(), BTreeMap::from(graphs));
        assert!(requested("a /x b").unwrap_err().to_string().contains("no list of names and paths"));
        assert_eq!(requests(&derivation("")).unwrap(), BTreeMap::new());
    }

    #[test]
    fn no_file_is_outside_of_the_build_directory() {
        for name in ["../a", "a/b", "/a", ".", "-a", "1a", "é"] {
            let message = requested(&format!("{name} /x")).unwrap_err().to_string();
            assert!(message.contains("takes no such name"), "{message}");
        }
        assert!(requested("_a.b-1 /x").is_ok());
    }

    #[test]
    fn attributes_are_a_path_or_lists_of_paths() {
        let json = r#"{\"exportReferencesGraph\":{\"a\":\"/x\",\"b\":[\"/y\",[\"/z\"]]}}"#;
        let graphs = [("a", vec!["/x"]), ("b", vec!["/y", "/z"])]
            .map(|(name, paths)| (name.into(), paths.into_iter().map(Into::into).collect()));
        assert_eq!(requests(&derivation(&format!(r#"("__json","{json}")"#))).unwrap(), BTreeMap::from(graphs));
        let refused = requests(&derivation(r#"("__json","{\"exportReferencesGraph\":{\"a\":1}}")"#));
        assert!(refused.unwrap_err().to_string().contains("no list of names and paths"));
    }

    #[test]
    fn a_file_in_a_store_path_stands_for_it() {
        let store = Store::in_root(Path::new("/root")).unwrap();
        let path = |path: &str| store_path_of(path.as_bytes(), &derivation(""), &store);
        let busybox = "/nix/store/8hzbz17vcmw97w1wpqpadxhfkj7crcps-busybox";
        assert_eq!(path(&format!("{busybox}/bin/sh")).unwrap(), Path::new(busybox));
        for other in ["/etc/passwd", "/nix/store", "/nix/store/..", "/nix/store/busybox", "busybox"] {
            assert!(path(other).unwrap_err().to_string().contains("is no path in /nix/store"), "{other}");
        }
    }

    #[test]
    fn a_derivation_that_asks_for_nothing_costs_no_look_at_the_store() {
        let store = Store::in_root(Path::new("/nonexistent")).unwrap();
        assert_eq!(ReferencesGraphs::requested_by(&derivation(""), &store).unwrap(), ReferencesGraphs::default());
        let asks = derivation(r#"("exportReferencesGraph","a /nix/store/8hzbz17vcmw97w1wpqpadxhfkj7crcps-busybox")"#);
        let message = format!("{:#}", ReferencesGraphs::requested_by(&asks, &store).unwrap_err());
        assert!(message.contains("is not known: there is no Nix database"), "{message}");
    }

    #[test]
    fn a_closure_counts_each_path_once() {
        let infos =
            [info("a", 1, &["b", "c"]), info("b", 10, &["b", "c"]), info("c", 100, &[]), info("d", 1000, &["a"])];
        assert_eq!(closure_sizes(&infos), [111, 110, 100, 1111]);
    }
}
