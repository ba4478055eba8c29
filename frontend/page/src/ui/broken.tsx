/** Shown when a part of the page fails to render. */
export function Broken() {
  return (
    <div className="broken" role="alert">
      <p>
        This part of the page could not be loaded. It may have been replaced by a newer one, or the connection is lost.
      </p>
      <button type="button" className="button" onClick={() => location.reload()}>
        Load the page again
      </button>
      <p className="broken-note">Your conversations are kept.</p>
    </div>
  );
}
