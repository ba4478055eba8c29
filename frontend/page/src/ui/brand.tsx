/** The logo: a marked passage in a text. */

export function Brand({ size = 28 }: { size?: number }) {
  return (
    <svg viewBox="0 0 64 64" width={size} height={size} aria-hidden className="brand-sign">
      <rect width="64" height="64" rx="15" className="brand-ground" />
      <path
        d="M12 14h40a4 4 0 0 1 4 4v22a4 4 0 0 1-4 4H32L20 54V44h-8a4 4 0 0 1-4-4V18a4 4 0 0 1 4-4z"
        className="brand-sheet"
      />
      <path d="M16 22h32M16 29h5M47 29h1M16 36h18" className="brand-lines" />
      <path d="M28 29h12" className="brand-mark" />
    </svg>
  );
}
