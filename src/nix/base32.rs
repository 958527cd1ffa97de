//! Nix's own base 32, which is no RFC's: it begins with the last bits, and has no e, o, t and u.

const DIGITS: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";

/// A hash as Nix writes it in store paths and placeholders: 32 digits for 20 bytes, 52 for 32.
pub(super) fn encode(bytes: &[u8]) -> String {
    let digits = (bytes.len() * 8).div_ceil(5);
    (0..digits)
        .rev()
        .map(|digit| {
            let (byte, shift) = (digit * 5 / 8, digit * 5 % 8);
            let next = bytes.get(byte + 1).copied().unwrap_or(0);
            let both = u16::from_le_bytes([bytes[byte], next]);
            char::from(DIGITS[usize::from(both >> shift & 31)])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_those_of_nix_hash() {
        // «nix-hash --type sha256 --to-base32» and the same of sha1.
        let empty = *b"\xe3\xb0\xc4\x42\x98\xfc\x1c\x14\x9a\xfb\xf4\xc8\x99\x6f\xb9\x24\
            \x27\xae\x41\xe4\x64\x9b\x93\x4c\xa4\x95\x99\x1b\x78\x52\xb8\x55";
        assert_eq!(encode(&empty), "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73");
        assert_eq!(encode(&empty[..20]), "wi0sw9r4p5prkj7lzfd1877wk11c9c73");
        assert_eq!(encode(&[]), "");
    }
}
