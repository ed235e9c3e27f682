//! `pecctl parameters`: the table of the pec_ parameters, or the line that makes Postfix know those that are
//! set.

use std::path::Path;

use pec_host::parameters::{markdown, names_set, table};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Print the table of docs/configuration.md.
    #[arg(long)]
    markdown: bool,

    /// Print the value for milter_macro_defaults that names the parameters that are set in main.cf, so that
    /// postconf does not call them unused.
    #[arg(long, conflicts_with = "markdown")]
    named: bool,
}

pub(crate) fn run(config_directory: &Path, arguments: &Arguments) -> anyhow::Result<()> {
    if arguments.markdown {
        print!("{}", markdown());
    } else if arguments.named {
        let named: String = names_set(config_directory)?.iter().map(|name| format!("${{{name}?}}")).collect();
        println!("{named}");
    } else {
        for parameter in table() {
            println!("{}\n    {}\n", parameter.name, parameter.meaning);
        }
    }
    Ok(())
}
