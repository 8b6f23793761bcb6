//! `portgrant completions`' options.

/// `portgrant completions`
#[derive(Debug, clap::Args)]
#[command(after_help = "\
packaging/install puts them where bash, zsh and fish look for them. By hand, for one shell:
  portgrant completions bash > ~/.local/share/bash-completion/completions/portgrant
  portgrant completions zsh > ~/.zfunc/_portgrant         (~/.zfunc in fpath, before compinit)
  portgrant completions fish > ~/.config/fish/completions/portgrant.fish")]
pub struct Completions {
    /// The shell: bash, zsh or fish
    #[arg(value_name = "SHELL", value_parser = ["bash", "zsh", "fish"], hide_possible_values = true)]
    pub shell: String,
}
