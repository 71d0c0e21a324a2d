//! Arguments of `token`.

use clap::Subcommand;

use super::Output;

#[derive(Subcommand)]
pub(crate) enum TokenCommand {
    /// Reads a session token from standard input: shows its claims, its length, and whether it is accepted
    #[command(after_help = "Examples:\n  rollbook token inspect <token.txt\n  \
                            pbpaste | CLERK_ISSUER=https://clerk.example.com rollbook token inspect\n\n\
                            The token is neither printed nor logged; its claims are printed, and they are personal data. With\n\
                            clerk_issuer it is verified as the API would do it now, with clerk_jwt_key or with keys that are\n\
                            fetched. Exit code 1: the token can't be read, would be refused, can't be verified although\n\
                            clerk_issuer is set, or is too long for a cookie. Bearer or __session= may stand before it.")]
    Inspect {
        /// Prints for people or for programs
        #[arg(long, value_enum, default_value = "text")]
        output: Output,
    },
}
