/** A refusal: says that the documents do not answer, and lists related topics. */

import { FileSearch } from "lucide-react";
import { openDocument } from "../ui/panels";
import type { Answer } from "./answer";

export function Refusal({ answer }: { answer: Answer }) {
  return (
    <div className="refusal">
      <FileSearch aria-hidden />
      <div>
        <p className="refusal-title">The documents do not answer this question.</p>
        <p>{answer.topics.length > 0 ? "Related topics in the documents:" : "No answer is given, to avoid a guess."}</p>
        {answer.topics.length > 0 && (
          <ul className="topics" aria-label="Nearest topics">
            {answer.topics.map((topic) => (
              <li key={`${topic.document_id} ${topic.heading}`}>
                <button
                  type="button"
                  onClick={() =>
                    openDocument({ documentId: topic.document_id, title: topic.title, heading: topic.heading })
                  }
                >
                  <span className="topic-title" dir="auto">
                    {topic.heading || topic.title || topic.document_id}
                  </span>
                  {topic.heading && topic.title && (
                    <span className="topic-in" dir="auto">
                      {topic.title}
                    </span>
                  )}
                </button>
              </li>
            ))}
          </ul>
        )}
      </div>
    </div>
  );
}
