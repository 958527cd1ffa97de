//! Which files a build makes, as far as their names tell.

/// Directories that hold the files of a tool, never a person's: version control, caches, what compilers put aside.
const TOOL_DIRECTORIES: [&str; 31] = [
    ".bzr",
    ".cache",
    ".cargo",
    ".deps",
    ".eggs",
    ".git",
    ".gradle",
    ".hg",
    ".jj",
    ".libs",
    ".mypy_cache",
    ".nox",
    ".nyc_output",
    ".pc",
    ".pytest_cache",
    ".ruff_cache",
    ".stack-work",
    ".svn",
    ".tox",
    ".venv",
    ".zig-cache",
    "CMakeFiles",
    "__pycache__",
    "_darcs",
    "autom4te.cache",
    "dist-newstyle",
    "meson-private",
    "meson-info",
    "node_modules",
    "zig-cache",
    "zig-out",
];

/// Directories that builds are made in. In a source there may be one of that name; a new one is a build's.
const BUILD_DIRECTORIES: [&str; 10] =
    ["_build", "blib", "bld", "build", "builddir", "dist", "obj", "out", "target", "coverage"];

/// Files by which a tool marks a directory as its own.
pub(super) const DIRECTORY_MARKS: [&str; 4] = ["CACHEDIR.TAG", "CMakeCache.txt", "pyvenv.cfg", "build.ninja"];

/// Files that configuring and building leaves.
const NAMES: [&str; 24] = [
    ".coverage",
    ".dirstamp",
    ".ninja_deps",
    ".ninja_lock",
    ".ninja_log",
    "CMakeCache.txt",
    "CTestTestfile.cmake",
    "MYMETA.json",
    "MYMETA.yml",
    "a.out",
    "build.ninja",
    "cmake_install.cmake",
    "compile_commands.json",
    "config.cache",
    "config.log",
    "config.lt",
    "config.status",
    "confdefs.h",
    "core",
    "install_manifest.txt",
    "libtool",
    "nohup.out",
    "pm_to_blib",
    "tags",
];

/// Ends of the names of what compilers, test programs, editors and `patch` make.
const ENDS: [&str; 52] = [
    "~",
    ".a",
    ".aux",
    ".beam",
    ".class",
    ".cmi",
    ".cmo",
    ".cmt",
    ".cmti",
    ".cmx",
    ".cmxa",
    ".dSYM",
    ".dll",
    ".dylib",
    ".dyn_hi",
    ".dyn_o",
    ".egg-info",
    ".elc",
    ".exe",
    ".gch",
    ".gcda",
    ".gcno",
    ".gcov",
    ".gmo",
    ".hi",
    ".ii",
    ".ko",
    ".la",
    ".lai",
    ".lo",
    ".log",
    ".mo",
    ".o",
    ".obj",
    ".orig",
    ".pch",
    ".profraw",
    ".pyc",
    ".pyo",
    ".rej",
    ".rlib",
    ".rmeta",
    ".so",
    ".stamp",
    ".swo",
    ".swp",
    ".tmp",
    ".trs",
    ".whl",
    ".tsbuildinfo",
    ".uic",
    ".qm",
];

/// Those of them that people give to what they write, too, or that hold what they have not saved.
const WRITTEN_ENDS: [&str; 8] = ["~", ".aux", ".log", ".orig", ".rej", ".swo", ".swp", ".tmp"];

/// What a file is made from, by the end of its name: the maker's name has the other end instead.
const SOURCES: [(&str, &[&str]); 14] = [
    (".c", &[".y", ".l", ".lex", ".re", ".rl", ".pyx", ".gperf", ".vala", ".proto", ".chs", ".xs"]),
    (".h", &[".y", ".gperf", ".pyx", ".vala", ".capnp", ".ui"]),
    (".cc", &[".yy", ".ll", ".y", ".l", ".proto", ".rl", ".gperf"]),
    (".cpp", &[".yy", ".ypp", ".y", ".l", ".lpp", ".rl", ".pyx", ".ui", ".qrc"]),
    (".hpp", &[".yy", ".ypp", ".y"]),
    (".hh", &[".yy", ".y"]),
    (".hs", &[".hsc", ".chs", ".x", ".y"]),
    (".ml", &[".mll", ".mly"]),
    (".mli", &[".mly"]),
    (".js", &[".ts", ".coffee"]),
    (".css", &[".scss", ".sass", ".less"]),
    (".info", &[".texi", ".texinfo", ".txi"]),
    (".d", &[".c", ".cc", ".cpp", ".cxx", ".rs", ".s", ".S", ".o"]),
    ("", &[".in", ".in.in", ".am", ".cmake.in", ".tmpl", ".template"]),
];

/// What autotools, Perl and CMake make of a file with another name.
const SOURCES_BY_NAME: [(&str, &[&str]); 6] = [
    ("configure", &["configure.ac", "configure.in"]),
    ("aclocal.m4", &["configure.ac", "configure.in"]),
    ("config.h.in", &["configure.ac", "configure.in"]),
    ("Makefile.in", &["Makefile.am"]),
    ("Makefile", &["Makefile.PL", "CMakeLists.txt", "Makefile.cmake", "configure"]),
    ("config.h", &["configure"]),
];

/// How the content begins of what compilers and archivers make, whatever it is called.
const MACHINE_CODE: [&[u8]; 9] = [
    b"\x7fELF",
    b"!<arch>\n",
    b"!<thin>\n",
    b"BC\xc0\xde",
    b"\0asm",
    b"\xca\xfe\xba\xbe",
    b"\xcf\xfa\xed\xfe",
    b"MZ\x90\0",
    b"Caml1999",
];

/// Whether a file with this content is a compiler's.
pub(super) fn is_machine_code(content: &[u8]) -> bool {
    MACHINE_CODE.iter().any(|start| content.starts_with(start))
}

/// Whether a text is a compiler's list of what an object file is made from, as `make` reads it.
pub(super) fn is_dependency_list(content: &[u8]) -> bool {
    let first = content.split(|byte| matches!(byte, b'\n' | b' ' | b'\\')).next().unwrap_or_default();
    [&b".o:"[..], b".lo:", b".obj:"].iter().any(|end| first.ends_with(end))
}

/// Whether a file of this name is a build's, or an editor's.
pub(super) fn is_product(name: &[u8]) -> bool {
    let versioned_library = name.windows(4).any(|part| part == b".so.");
    let is_temporary = name.starts_with(b"conftest") || name.starts_with(b".#") || name.starts_with(b"moc_");
    let is_core = name.strip_prefix(b"core.").is_some_and(|number| number.iter().all(u8::is_ascii_digit));
    versioned_library
        || is_temporary
        || is_core
        || NAMES.iter().any(|known| name == known.as_bytes())
        // A file that is called `.o`, or `.log`, is none.
        || ENDS.iter().any(|end| name.len() > end.len() && name.ends_with(end.as_bytes()))
}

/// Whether a person may give a file this name as well, although tools do.
pub(super) fn may_be_written(name: &[u8]) -> bool {
    WRITTEN_ENDS.iter().any(|end| name.ends_with(end.as_bytes()))
}

/// Of what an editor's backup of this name was made, in the same directory.
pub(super) fn backed_up(name: &[u8]) -> Option<&[u8]> {
    name.strip_suffix(b"~")
}

/// Whether a directory of this name belongs to a tool.
pub(super) fn is_tool_directory(name: &[u8]) -> bool {
    TOOL_DIRECTORIES.iter().any(|known| name == known.as_bytes()) || name.ends_with(b".egg-info")
}

/// Whether a new directory of this name is one to build in.
pub(super) fn is_build_directory(name: &[u8]) -> bool {
    BUILD_DIRECTORIES.iter().any(|known| name == known.as_bytes()) || name.starts_with(b"cmake-build")
}

/// Files in the same directory that a file of this name would be made from.
pub(super) fn possible_sources(name: &[u8]) -> Vec<Vec<u8>> {
    let by_name = SOURCES_BY_NAME.iter().filter(|(made, _)| name == made.as_bytes());
    let by_name = by_name.flat_map(|(_, sources)| sources.iter().map(|source| source.as_bytes().to_vec()));
    let by_end = SOURCES.iter().filter_map(|(end, others)| Some((name.strip_suffix(end.as_bytes())?, others)));
    let by_end = by_end.flat_map(|(stem, others)| {
        // bison makes `parse.tab.c`, protoc `message.pb.h`, re2c and lex `scan.yy.c`.
        let stem = [&b".tab"[..], b".pb", b".yy"].iter().find_map(|infix| stem.strip_suffix(*infix)).unwrap_or(stem);
        others.iter().map(move |other| [stem, other.as_bytes()].concat())
    });
    by_name.chain(by_end).collect()
}

/// What Nix and stdenv write into the build directory, and compilers and `mktemp` beside it.
pub(super) fn is_of_the_builder(name: &[u8]) -> bool {
    let is_compilers =
        name.len() >= 8 && name.starts_with(b"cc") && name.iter().skip(2).take(6).all(u8::is_ascii_alphanumeric);
    name == b"env-vars" || name.starts_with(b".attr") || name.starts_with(b"tmp.") || is_compilers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_known_by_their_names() {
        for name in ["main.o", "libx.so.1.2", "config.log", "core.123", "x.c.orig", "notes~", "test.log", ".main.c.swp"]
        {
            assert!(is_product(name.as_bytes()), "{name}");
        }
        for name in ["main.c", "Makefile", "README", ".gitignore", "go.mod", "score", "core.py", ".o", "so.c", "logo"] {
            assert!(!is_product(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn some_names_of_products_are_given_by_people_too() {
        for name in ["notes.log", "x.c.orig", "x.c.rej", "notes~", ".x.c.swp"] {
            assert!(is_product(name.as_bytes()) && may_be_written(name.as_bytes()), "{name}");
        }
        assert!(!may_be_written(b"main.o") && !may_be_written(b"config.status"));
        assert_eq!((backed_up(b"main.c~"), backed_up(b"main.c")), (Some(&b"main.c"[..]), None));
    }

    #[test]
    fn what_compilers_make_is_known_by_its_first_bytes() {
        assert!(is_machine_code(b"\x7fELF\x02\x01") && is_machine_code(b"!<arch>\nmain.o/"));
        assert!(!is_machine_code(b"\x89PNG\r\n\x1a\n") && !is_machine_code(b"") && !is_machine_code(b"\x7fE"));
    }

    #[test]
    fn what_compilers_write_for_make_is_known_by_its_first_word() {
        assert!(is_dependency_list(b"src/main.o: main.c main.h\n") && is_dependency_list(b"main.lo: \\\n main.c\n"));
        assert!(
            !is_dependency_list(b"module main;\n")
                && !is_dependency_list(b"all: main.o:\n")
                && !is_dependency_list(b"")
        );
    }

    #[test]
    fn directories_of_tools_are_known_by_their_names() {
        assert!(is_tool_directory(b"__pycache__") && is_tool_directory(b".git") && is_tool_directory(b"x.egg-info"));
        assert!(!is_tool_directory(b"build") && !is_tool_directory(b"src") && !is_tool_directory(b".github"));
        assert!(
            is_build_directory(b"build") && is_build_directory(b"cmake-build-debug") && !is_build_directory(b"src")
        );
    }

    #[test]
    fn what_is_made_of_a_file_beside_it_is_known() {
        let is_made_of =
            |made: &str, source: &str| possible_sources(made.as_bytes()).contains(&source.as_bytes().to_vec());
        for (made, source) in [
            ("Makefile", "Makefile.in"),
            ("Makefile", "CMakeLists.txt"),
            ("config.h", "config.h.in"),
            ("configure", "configure.ac"),
            ("parse.tab.c", "parse.y"),
            ("scan.c", "scan.l"),
            ("message.pb.cc", "message.proto"),
            ("main.d", "main.c"),
        ] {
            assert!(is_made_of(made, source), "{made} of {source}");
        }
        assert!(!is_made_of("main.c", "main.h") && !is_made_of("a.h", "a.c"));
    }

    #[test]
    fn what_lies_beside_the_source_is_known() {
        for name in ["env-vars", ".attrs.json", ".attr-1yng5xdkybsg", "tmp.Xy12", "ccAb12Cd.s"] {
            assert!(is_of_the_builder(name.as_bytes()), "{name}");
        }
        assert!(!is_of_the_builder(b"notes") && !is_of_the_builder(b"cc.c"));
    }
}
