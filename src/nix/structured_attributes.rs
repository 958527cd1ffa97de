//! The attributes of a derivation with `__structuredAttrs`, as the files that its builder finds: `.attrs.json` and `.attrs.sh`.

use serde_json::{Map, Number, Value};

/// `.attrs.json`: without white space, names in the order of their bytes, numbers as Nix's JSON library writes them.
pub(crate) fn json_text(attributes: &Map<String, Value>) -> Vec<u8> {
    let mut text = String::new();
    write_object(attributes, &mut text);
    text.into_bytes()
}

fn write_object(values: &Map<String, Value>, text: &mut String) {
    text.push('{');
    for (index, (name, value)) in values.iter().enumerate() {
        text.push_str(if index == 0 { "" } else { "," });
        write_string(name, text);
        text.push(':');
        write_value(value, text);
    }
    text.push('}');
}

/// The reader of JSON lets nothing in that is nested more than 128 times, so this ends.
fn write_value(value: &Value, text: &mut String) {
    match value {
        Value::Object(values) => write_object(values, text),
        Value::Array(values) => {
            text.push('[');
            for (index, value) in values.iter().enumerate() {
                text.push_str(if index == 0 { "" } else { "," });
                write_value(value, text);
            }
            text.push(']');
        }
        Value::String(string) => write_string(string, text),
        Value::Number(number) => text.push_str(&number_text(number)),
        Value::Bool(_) | Value::Null => text.push_str(&value.to_string()),
    }
}

fn write_string(string: &str, text: &mut String) {
    text.push_str(&Value::from(string).to_string());
}

/// `.attrs.sh`: what bash can hold, as declarations: strings, whole numbers, truth values and null, and lists and sets
/// of these. All else is left out, and so are names that are no names of variables.
pub(crate) fn shell_text(attributes: &Map<String, Value>) -> Vec<u8> {
    let mut text = String::new();
    for (name, value) in attributes.iter().filter(|(name, _)| is_variable_name(name)) {
        let declaration = match value {
            Value::Array(values) => {
                let words: Option<String> = values.iter().map(|value| Some(word(value)? + " ")).collect();
                words.map(|words| format!("declare -a {name}=({words})\n"))
            }
            Value::Object(values) => {
                let pairs = values.iter().map(|(key, value)| Some(format!("[{}]={} ", quoted(key), word(value)?)));
                let pairs: Option<String> = pairs.collect();
                pairs.map(|pairs| format!("declare -A {name}=({pairs})\n"))
            }
            simple => word(simple).map(|word| format!("declare {name}={word}\n")),
        };
        text.extend(declaration);
    }
    text.into_bytes()
}

fn is_variable_name(name: &str) -> bool {
    !name.starts_with(|first: char| first.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// A value in one word of bash, or `None` where it is no string, whole number, truth value or null.
fn word(value: &Value) -> Option<String> {
    match value {
        Value::String(string) => Some(quoted(string)),
        Value::Number(number) => Some(whole_number(number)?.to_string()),
        Value::Bool(truth) => Some(if *truth { "1" } else { "" }.into()),
        Value::Null => Some("''".into()),
        Value::Array(_) | Value::Object(_) => None,
    }
}

fn quoted(string: &str) -> String {
    format!("'{}'", string.replace('\'', r"'\''"))
}

/// A number as C++ converts it to `int`, and `None` for one that has a fraction even as a `float`. Nix does not look whether it fits.
fn whole_number(number: &Number) -> Option<i32> {
    match Parsed::of(number) {
        Parsed::Negative(whole) => Some(whole as i32),
        Parsed::Whole(whole) => Some(whole as i32),
        Parsed::Float(float) => {
            let single = float as f32;
            // Beyond the range the language leaves it open, and what comes out is the machine's: x86 has one answer for all.
            let fits = float > f64::from(i32::MIN) - 1.0 && float < f64::from(i32::MAX) + 1.0;
            let beyond = if cfg!(target_arch = "x86_64") { i32::MIN } else { float as i32 };
            (single.ceil() == single).then_some(if fits { float as i32 } else { beyond })
        }
    }
}

/// A number of JSON as Nix's library holds it: in 64 bits with or without a sign where it is written as a whole one and fits.
enum Parsed {
    Negative(i64),
    Whole(u64),
    Float(f64),
}

impl Parsed {
    fn of(number: &Number) -> Self {
        let text = number.to_string();
        if let Ok(whole) = text.parse() {
            Self::Whole(whole)
        } else if let Ok(negative) = text.parse() {
            Self::Negative(negative)
        } else {
            Self::Float(text.parse().unwrap_or(f64::INFINITY))
        }
    }
}

fn number_text(number: &Number) -> String {
    match Parsed::of(number) {
        Parsed::Whole(whole) => whole.to_string(),
        Parsed::Negative(negative) => negative.to_string(),
        Parsed::Float(float) if float.is_finite() => float_text(float),
        // Nix refuses to build with a number that is too large.
        Parsed::Float(_) => number.to_string(),
    }
}

/// The fewest digits that lead back to the same number, with an exponent below a ten-thousandth and from 10^15 on.
fn float_text(float: f64) -> String {
    let shortest = format!("{:e}", float.abs());
    let (mantissa, exponent) = shortest.split_once('e').unwrap_or((&shortest, "0"));
    let digits = mantissa.replace('.', "");
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let sign = if float.is_sign_negative() { "-" } else { "" };
    match (digits.len(), exponent) {
        (count, 0..15) => {
            let whole_digits = exponent as usize + 1;
            if count <= whole_digits {
                format!("{sign}{digits:0<whole_digits$}.0")
            } else {
                format!("{sign}{}.{}", &digits[..whole_digits], &digits[whole_digits..])
            }
        }
        (_, -4..0) => format!("{sign}0.{:0>1$}{digits}", "", -exponent as usize - 1),
        _ => {
            let exponent_sign = if exponent < 0 { '-' } else { '+' };
            format!("{sign}{mantissa}e{exponent_sign}{:02}", exponent.abs())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(json: &str) -> Map<String, Value> {
        serde_json::from_str(json).unwrap()
    }

    fn json(json: &str) -> String {
        String::from_utf8(json_text(&attributes(json))).unwrap()
    }

    fn shell(json: &str) -> String {
        String::from_utf8(shell_text(&attributes(json))).unwrap()
    }

    #[test]
    fn floats_change_form_where_nix_changes_it() {
        for (read, written) in [
            ("-0", "0"),
            ("-0.0", "-0.0"),
            ("1.50", "1.5"),
            ("100000000000000.0", "100000000000000.0"),
            ("999999999999999.9", "999999999999999.9"),
            ("1000000000000000.0", "1e+15"),
            ("1.25e-4", "0.000125"),
            ("0.0001", "0.0001"),
            ("0.00001", "1e-05"),
            ("1.5e-300", "1.5e-300"),
            ("18446744073709551615", "18446744073709551615"),
            ("18446744073709551616", "1.8446744073709552e+19"),
            ("-9223372036854775809", "-9.223372036854776e+18"),
        ] {
            assert_eq!(json(&format!("{{\"a\":{read}}}")), format!("{{\"a\":{written}}}"));
        }
    }

    #[test]
    fn strings_are_escaped_and_names_sorted() {
        let text = r#"{"é":"\u0000\u001f\u007f\b\f\n\r\t\"\\\/é","a":[],"Z":{"b":1,"a":2}}"#;
        let written = "{\"Z\":{\"a\":2,\"b\":1},\"a\":[],\"é\":\"\\u0000\\u001f\x7f\\b\\f\\n\\r\\t\\\"\\\\/é\"}";
        assert_eq!(json(text), written);
    }

    #[test]
    fn only_what_bash_can_hold_is_declared() {
        assert_eq!(
            shell(r#"{"a":"it's","b":true,"c":false,"d":null,"e":7}"#),
            "declare a='it'\\''s'\ndeclare b=1\ndeclare c=\ndeclare d=''\ndeclare e=7\n"
        );
        assert_eq!(
            shell(r#"{"a":["x",1,false],"b":[],"c":{"k k":1},"d":{}}"#),
            "declare -a a=('x' 1  )\ndeclare -a b=()\ndeclare -A c=(['k k']=1 )\ndeclare -A d=()\n"
        );
        assert_eq!(shell(r#"{"a":[[]],"b":[{}],"c":{"k":[]},"d":0.5,"e":[0.5],"f":{"k":0.5}}"#), "");
        assert_eq!(shell(r#"{"":1,"1a":1,"a-b":1,"é":1,"a b":1}"#), "");
        assert_eq!(shell(r#"{"_":1,"_1":1,"A9":1}"#), "declare A9=1\ndeclare _=1\ndeclare _1=1\n");
    }

    #[test]
    fn numbers_are_cut_to_32_bits() {
        let declared = |number| shell(&format!("{{\"a\":{number}}}"));
        for (number, written) in [
            ("4294967301", "5"),
            ("-2147483649", "2147483647"),
            ("18446744073709551615", "-1"),
            ("3e0", "3"),
            ("1e-50", "0"),
            ("-2147483648.0", "-2147483648"),
        ] {
            assert_eq!(declared(number), format!("declare a={written}\n"));
        }
        // Too fine for a float, so it counts as whole.
        assert_eq!(declared("16777216.5"), "declare a=16777216\n");
    }
}
