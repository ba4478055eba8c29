"""PDFs that no library would write."""

from __future__ import annotations


def pdf_of(content: bytes, filters: bytes, font: bytes = b"/BaseFont /Helvetica") -> bytes:
    """A PDF of one page with this content stream, to be decoded by these filters."""
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 99 99] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d /Filter [%b] >>\nstream\n%b\nendstream" % (len(content), filters, content),
        b"<< /Type /Font /Subtype /Type1 %b >>" % font,
    ]
    body, offsets = b"%PDF-1.4\n", []
    for number, each in enumerate(objects, start=1):
        offsets.append(len(body))
        body += b"%d 0 obj\n%b\nendobj\n" % (number, each)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    trailer = b"trailer << /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % len(body)
    return body + b"xref\n0 6\n0000000000 65535 f \n" + table + trailer
