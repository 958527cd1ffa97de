//! The manual page. Names, options and usage come from the grammar of the command line, so a new option or subcommand needs nothing here;
//! what there is to tell beyond it stands in `manual/`.

mod stories;

use clap::{Arg, Command};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use self::stories::STORIES;
use super::help::usage;
use super::{Invocation, NAME};

/// When what is told in `manual/` was last changed.
const DATE: &str = "2026-11-28";

const DESCRIPTION: &str = include_str!("manual/description.roff");
const AFTER_OPTIONS: &str = include_str!("manual/after_options.roff");

const GENERATE: &str = "Print a text that goes with the program, on standard output: man, this page; complete-bash, complete-fish or \
                        complete-zsh, the script that completes its command line in a shell.";

/// The page, for `man`.
pub fn page() -> Vec<u8> {
    let mut grammar = Invocation::grammar();
    grammar.build();
    let grammar = told(grammar);
    let head = Man::new(grammar.clone())
        .title(NAME.to_uppercase())
        .date(DATE)
        .source(format!("{NAME} {}", env!("CARGO_PKG_VERSION")))
        .manual("User Commands");
    let mut page = Vec::new();
    head.render_title(&mut page).expect("memory takes it");
    head.render_name_section(&mut page).expect("memory takes it");
    let text = |roff: Roff| roff.to_roff();
    page.extend(text(synopsis(&grammar)).bytes());
    page.extend(b".SH DESCRIPTION\n".iter().chain(DESCRIPTION.as_bytes()));
    page.extend(b".SH OPTIONS\n");
    page.extend(options(&grammar).bytes());
    page.extend(text(generate()).bytes());
    page.extend(b".SH SUBCOMMANDS\n");
    for subcommand in grammar.get_subcommands() {
        page.extend(subcommand_section(subcommand, &grammar).bytes());
    }
    page.extend(AFTER_OPTIONS.bytes());
    page
}

/// With the stories of its options, and of those of its subcommands.
fn told(command: Command) -> Command {
    let story = |arg: &Arg| STORIES.iter().find(|(long, _)| arg.get_long() == Some(long)).map(|(_, story)| *story);
    command
        .mut_args(|arg| match story(&arg) {
            Some(story) => arg.long_help(story),
            None => arg.hide_short_help(false),
        })
        .mut_subcommands(told)
}

/// A line for each way to call the program.
fn synopsis(grammar: &Command) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["SYNOPSIS"]);
    let ways = usage(grammar).into_iter().filter(|way| !way.contains(" SUBCOMMAND "));
    for (place, way) in ways.chain(grammar.get_subcommands().flat_map(usage)).enumerate() {
        if place > 0 {
            roff.control("br", []);
        }
        roff.text([bold(NAME), roman(way.strip_prefix(NAME).unwrap_or(&way))]);
    }
    roff
}

/// The options and arguments of a command, below headings of the second degree.
fn options(command: &Command) -> String {
    let mut text = Vec::new();
    Man::new(command.clone()).render_options_section(&mut text).expect("memory takes it");
    let text = String::from_utf8_lossy(&text);
    let lines = text.lines().filter(|line| *line != ".SH OPTIONS");
    lines.map(|line| line.replacen(".SH ", ".SS ", 1) + "\n").collect()
}

fn generate() -> Roff {
    let mut roff = Roff::new();
    roff.control("SS", ["TEXTS"]);
    roff.control("TP", []);
    roff.text([bold("--generate"), roman(" WHAT")]);
    roff.text([roman(GENERATE)]);
    roff
}

/// A subcommand with what it has beyond the program's own options, then its own subcommands.
fn subcommand_section(command: &Command, grammar: &Command) -> String {
    let mut roff = Roff::new();
    let name = command.get_bin_name().unwrap_or(command.get_name());
    roff.control("SS", [name.strip_prefix(NAME).unwrap_or(name).trim()]);
    roff.text([roman(command.get_about().map(|about| format!("{about}.")).unwrap_or_default())]);
    let is_common = |arg: &Arg| {
        arg.get_long().is_some_and(|long| {
            grammar.get_arguments().any(|of_program| {
                of_program.get_long() == Some(long) && of_program.get_help_heading() == arg.get_help_heading()
            })
        })
    };
    let common: Vec<_> = command.get_arguments().filter(|arg| is_common(arg)).collect();
    let mut headings: Vec<_> = common.iter().filter_map(|arg| arg.get_help_heading()).collect();
    headings.dedup();
    if !headings.is_empty() {
        let headings: Vec<_> = headings.iter().map(|heading| format!("«{heading}»")).collect();
        roff.text([roman(format!("It takes the options of {} as well.", headings.join(" and ")))]);
    }
    let own = command.clone().mut_args(|arg| if is_common(&arg) { arg.hide(true) } else { arg });
    let mut text = roff.to_roff() + &options(&own);
    text.extend(command.get_subcommands().map(|subcommand| subcommand_section(subcommand, grammar)));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_options(command: &Command) -> Vec<String> {
        let shown = command.get_arguments().filter(|arg| !arg.is_hide_set());
        let own = shown.filter_map(|arg| arg.get_long().map(String::from));
        own.chain(command.get_subcommands().flat_map(all_options)).collect()
    }

    #[test]
    fn every_story_is_of_an_option() {
        let mut grammar = Invocation::grammar();
        grammar.build();
        let options = all_options(&grammar);
        for (option, _) in STORIES {
            assert!(options.iter().any(|known| known == option), "--{option}");
        }
    }

    #[test]
    fn every_option_and_subcommand_is_in_the_page() {
        let mut grammar = Invocation::grammar();
        grammar.build();
        let page = String::from_utf8(page()).unwrap().replace("\\-", "-");
        for option in all_options(&grammar) {
            assert!(page.contains(&format!("--{option}\\fR")), "--{option}");
        }
        for subcommand in grammar.get_subcommands() {
            assert!(page.contains(&format!("\n.SS {}\n", subcommand.get_name())), "{}", subcommand.get_name());
        }
        assert!(page.contains("\n.SS \"sessions enter\"\n"));
    }
}
