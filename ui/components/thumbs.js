// Pictures of drafts for lists. Each is fetched once a tab, when it comes near the screen, a few at a
// time; all of them go with the page, as at the end of a session.

const THUMBS_KEPT = 300, THUMBS_AT_ONCE = 3;
const thumbs = (window.medsecThumbs ||= { kept: new Map(), waiting: [], busy: 0 });

/** Show a draft's picture with its boxes in an image element, once it is near the screen. */
function showThumb(image, id, version, side) {
  const name = `/api/drafts/${id}/preview/?side=${side}&v=${version}`;
  const known = thumbs.kept.get(name);
  if (known) {
    image.src = known;
    return;
  }
  const near = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    near.disconnect();
    thumbs.waiting.push({ image, name });
    nextThumb();
  }, { rootMargin: "300px" });
  near.observe(image);
}

async function nextThumb() {
  if (thumbs.busy >= THUMBS_AT_ONCE) return;
  const one = thumbs.waiting.shift();
  if (!one) return;
  if (!one.image.isConnected) return nextThumb(); // its page was left
  thumbs.busy += 1;
  try {
    const url = thumbs.kept.get(one.name) || (await fetchPicture(one.name));
    thumbs.kept.delete(one.name);
    thumbs.kept.set(one.name, url); // the newest last
    one.image.src = url;
    for (const [name, old] of thumbs.kept) {
      if (thumbs.kept.size <= THUMBS_KEPT) break;
      thumbs.kept.delete(name);
      URL.revokeObjectURL(old);
    }
  } catch (error) {
    one.image.closest("button")?.setAttribute("title", error.message);
  } finally {
    thumbs.busy -= 1;
    nextThumb();
  }
}
