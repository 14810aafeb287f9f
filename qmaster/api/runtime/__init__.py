"""The Lambda runtime API, through which instances of functions get their calls and answer them."""
