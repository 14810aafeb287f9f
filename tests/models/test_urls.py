"""urls: a URL of a callback is read in one way or refused."""

import pytest

from qmaster.models.urls import MAX_URL, read_url


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("https://example.com", "https://example.com/"),
        ("HTTPS://Example.COM/Hook", "https://example.com/Hook"),
        ("https://example.com:443/hook", "https://example.com/hook"),
        ("http://example.com:80", "http://example.com/"),
        ("https://example.com:80/", "https://example.com:80/"),
        ("https://example.com?a=b", "https://example.com/?a=b"),
        ("https://example.com/a%20b?x=%2e%2e/..&url=http://other/", None),
        ("https://xn--bcher-kva.example/", None),
        ("http://my_service:8080/a/b/", None),
        ("http://10.0.0.5:8080/", None),
        ("http://[::1]:8080/hook", None),
        ("http://[FD00:0:0:0:0:0:0:1]/", "http://[fd00::1]/"),
        ("https://example.com/~team/a.b/...", None),
        ("https://example.com/a//b", None),
    ],
)
def test_a_url_is_sent_in_its_one_spelling(text: str, sent: str | None) -> None:
    """Of scheme, host and port; path and query stay as they are."""
    assert read_url(text).text == (sent or text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "such as"),
        ("example.com/hook", "such as"),
        ("ftp://example.com/", "such as"),
        ("//example.com/", "such as"),
        ("https:/example.com/", "such as"),
        ("https:\\\\example.com/", "such as"),
        ("https://example.com/#top", "fragment"),
        ("https://user@example.com/", "user information"),
        ("https://user:password@example.com/", "user information"),
        ("https://trusted.example@evil.example/", "user information"),
        ("https://trusted.example:443@evil.example/", "user information"),
        ("https://trusted.example%40evil.example/", "HOST"),
        ("https://evil.example\\@trusted.example/", "user information"),
        ("https://trusted.example\\.evil.example/", "characters"),
        ("https:///hook", "HOST"),
        ("https://:443/hook", "HOST"),
        ("https://example.com:/", "HOST"),
        ("https://example.com:0/", "port"),
        ("https://example.com:65536/", "port"),
        ("https://example.com:443443/", "HOST"),
        ("https://example.com:+443/", "HOST"),
        ("https://example.com./", "dot at its end"),
        ("https://.example.com/", "empty labels"),
        ("https://example..com/", "empty labels"),
        ("https://bücher.example/", "xn--"),
        ("https://ex\u200bample.com/", "xn--"),
        ("https://ⓔxample.com/", "xn--"),
        ("https://example。com/", "xn--"),
        ("https://127。0。0。1/", "xn--"),
        ("https://①②⑦.0.0.1/", "xn--"),
        ("https://example.com/a b", "characters"),
        (" https://example.com/", "such as"),
        ("https://example.com/\n", "characters"),
        ("https://example.com/a\r\nHost: evil", "characters"),
        ("https://example.com/\0", "characters"),
        ("https://example.com/%", "characters"),
        ("https://example.com/%zz", "characters"),
        ("https://example.com/a|b", "characters"),
        # Other spellings of IPv4 addresses: decimal, octal, hexadecimal, short.
        ("http://2852039166/", "IPv4"),
        ("http://0xa9fea9fe/", "IPv4"),
        ("http://0xA9.254.169.254/", "IPv4"),
        ("http://169.254.169.0xfe/", "IPv4"),
        ("http://0251.0376.0251.0376/", "IPv4"),
        ("http://025177524776/", "IPv4"),
        ("http://169.254.43518/", "IPv4"),
        ("http://127.1/", "IPv4"),
        ("http://0/", "IPv4"),
        ("http://0x/", "IPv4"),
        ("http://example.1/", "IPv4"),
        ("http://256.1.1.1/", "IPv4"),
        ("http://1.2.3.4.5/", "IPv4"),
        ("http://127.0.0.1./", "dot at its end"),
        ("http://[::1/", "HOST"),
        ("http://[::g]/", "HOST"),
        ("http://[1.2.3.4]/", "IPv6"),
        ("http://[fe80::1%25eth0]/", "HOST"),
        ("http://[::1]x/", "HOST"),
        # Paths that a server may read as another one.
        ("https://example.com/a/../b", ". and .."),
        ("https://example.com/a/./b", ". and .."),
        ("https://example.com/..", ". and .."),
        ("https://example.com/a/%2e%2e/b", ". and .."),
        ("https://example.com/a/%2E./b", ". and .."),
        ("https://example.com/a/%252e%252e/b", ". and .."),
        ("https://example.com/a/%25252e%25252e/b", ". and .."),
        ("https://example.com/a/..;/b", ". and .."),
        ("https://example.com/a/..;x=1/b", ". and .."),
        ("https://example.com/a%2fb", "slash"),
        ("https://example.com/a%2Fb", "slash"),
        ("https://example.com/a%252fb", "slash"),
        ("https://example.com/a%5cb", "slash"),
        ("https://example.com/a%00", "control"),
        ("https://example.com/a%0d%0aHost:%20evil", "control"),
        ("https://example.com/%" + "25" * 40 + "41", "once"),
        ("https://example.com/" + "x" * MAX_URL, "characters"),
    ],
)
def test_a_url_that_two_programs_may_read_differently_is_refused(text: str, said: str) -> None:
    """The error says what to change."""
    with pytest.raises(ValueError, match="expected") as raised:
        read_url(text)
    assert said in str(raised.value)


@pytest.mark.parametrize("host", ["a" * 64, ".".join(["a" * 60] * 5)])
def test_a_host_is_no_longer_than_a_name_can_be(host: str) -> None:
    """A label has 63 characters, a name 253."""
    with pytest.raises(ValueError, match="host name"):
        read_url(f"https://{host}/")
