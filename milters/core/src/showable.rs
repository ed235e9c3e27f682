//! What a stranger wrote, as it is shown: in the text that we sign, on a terminal, in the log.
//!
//! Promise: nothing in it changes how what stands around it is read: it ends no line, turns no direction,
//! hides nothing, and closes no quotes.

/// `text` with blanks for control characters, and with characters that turn the direction of writing or that
/// nobody sees as `[U+202E]`. Line breaks are control characters.
pub fn showable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if c.is_control() => shown.push(' '),
            c if misleads(c) => shown += &format!("[U+{:04X}]", u32::from(c)),
            c => shown.push(c),
        }
    }
    shown
}

/// The same for a text that stands between quotes: what looks like a double quote becomes a single one.
pub fn quotable(text: &str) -> String {
    showable(text).replace(is_double_quote, "'")
}

/// Whether a character shows as itself.
pub fn is_shown(c: char) -> bool {
    !c.is_control() && !misleads(c)
}

/// Direction marks, embeddings, overrides and isolates; line and paragraph separators; blanks without width; tags.
/// The joiners of Persian and of emoji are none of them.
fn misleads(c: char) -> bool {
    matches!(
        c,
        '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'
            | '\u{200e}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
    )
}

fn is_double_quote(c: char) -> bool {
    matches!(
        c,
        '"' | '\u{2ba}'
            | '\u{2dd}'
            | '\u{2ee}'
            | '\u{5f4}'
            | '\u{201c}'..='\u{201f}'
            | '\u{2033}'
            | '\u{2036}'
            | '\u{275d}'
            | '\u{275e}'
            | '\u{3003}'
            | '\u{301d}'..='\u{301f}'
            | '\u{ff02}'
            | '\u{1f676}'..='\u{1f678}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_changes_what_stands_around_it() {
        assert_eq!(showable("a\r\nb\u{1b}[2Jc\u{85}d"), "a  b [2Jc d");
        assert_eq!(showable("fattura\u{202e}fdp.exe"), "fattura[U+202E]fdp.exe");
        assert_eq!(
            showable("\u{2066}x\u{2069}\u{200b}\u{feff}\u{2028}"),
            "[U+2066]x[U+2069][U+200B][U+FEFF][U+2028]"
        );
        assert_eq!(quotable("x\" proveniente da \u{201c}y\u{201d}"), "x' proveniente da 'y'");
    }

    #[test]
    fn what_people_write_stays() {
        for text in [
            "Citt\u{e0} d'arte: 5 \u{20ac}, \u{ab}s\u{ec}\u{bb}",
            "\u{5e9}\u{5dc}\u{5d5}\u{5dd}",
            "\u{1f468}\u{200d}\u{1f469}",
        ] {
            assert_eq!(quotable(text), text);
        }
    }
}
