# The kinds of variables that only a running build can make; packages.nix has those that Nix sets.

export withoutValue
export -n notExported="is not in env-vars"

readonly readOnly="can be read, not changed"
export readOnly

declare -gix integer=42
declare -gux upperCase="shouted"

notUtf8=$'not \xff\xfe utf-8'
export notUtf8

# An exported function is in the environment of every command, yet not in env-vars: bash's `export` lists no functions.
exportedFunction() {
    echo "called with $*"
}
export -f exportedFunction
